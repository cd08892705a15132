"""The page that is the run: step, log, evaluate, save; at the end the finished weights and their evaluation."""

from collections.abc import Iterable, Iterator
from contextlib import nullcontext

from vitrail.assembly.lock import hold_lock
from vitrail.data.loader import raise_on_worker_death
from vitrail.engine.signals import StopSignal
from vitrail.engine.train import NonFiniteError, StepReport, train_steps
from vitrail.errors import Interrupted, RunError
from vitrail.training.divergence import explain_divergence
from vitrail.training.evaluations import Evaluations
from vitrail.training.events import Event, RunLog
from vitrail.training.metrics_window import MetricsWindow
from vitrail.training.samples import SampleSnapshots
from vitrail.training.saver import Saver, failure_reason, finish_weights, newest_checkpoint
from vitrail.training.session import Session
from vitrail.training.steps import loop_settings, remaining_batches


def run_training(session: Session) -> Iterator[Event]:
    """Steps to the end of the recipe and finishes the run's directory. Whoever iterates prints, plots or stops.

    Errors: `RunError` with the names of the batch where a number is not finite, after three failed saves in a row, and
    where another process works in the directory; `Interrupted` after a signal (saved first).
    """
    state, runtime, world = session.state, session.recipe.runtime, session.world
    world.set_timeout(runtime.timeout, session.folder.flight)
    lost = world.explain_loss(f"go on with: vitrail train --resume {session.folder.path}")
    lock, death = hold_lock(session.folder.path, world), raise_on_worker_death()
    with StopSignal() as stop, lost, lock, RunLog(session) as log, death, Saver(session) as saver:
        window, samples = MetricsWindow(session), SampleSnapshots(session)
        evaluations, settings = Evaluations(session), loop_settings(session, stop)

        # A signal may have come between a step and what was due after it: a resumed run does that first.
        yield from log.record(evaluations.evaluate_missed())
        yield from log.record(samples.write_missed())

        # A run that had stopped early takes no step again: what is left of it is its end.
        steps: Iterable[StepReport] = ()
        if not evaluations.should_stop:
            batches = remaining_batches(session, stop.is_requested)
            steps = train_steps(state, session.bundle.task, batches, settings)
        try:
            for report in steps:
                window.add(report)
                yield from log.record(window.news(report))
                last = report.step == session.steps
                if report.step % runtime.log_every == 0 or last:
                    yield from log.record(window.close(report))
                # After a signal nothing may delay the checkpoint; what is due here is made up for on resuming.
                if evaluations.is_due(report.step) and not report.stop:
                    yield from log.record(evaluations.evaluate())
                if samples.is_due(report.step) and not report.stop:
                    yield from log.record(samples.write())
                enough = evaluations.should_stop
                if enough and window.reports:
                    yield from log.record(window.close(report))
                if report.step % runtime.save_every == 0 or last or enough or report.stop:
                    yield from log.record(saver.save(last or enough, wait=report.stop))
                if report.stop:
                    raise interrupted(session, saver, stop)
                if enough:
                    break
            if stop.is_requested() and state.step < session.steps and not evaluations.should_stop:
                yield from log.record(saver.save(wait=True))  # stopped while it waited for images
                raise interrupted(session, saver, stop)
        except NonFiniteError as error:  # the weights are those of before the step; the batch and the finding are kept
            raise explain_divergence(error, session, settings.lr_at(error.step - 1)) from None

        if evaluations.should_stop and state.step < session.steps:
            yield evaluations.stop_message()
        yield from log.record(finish(session, saver, evaluations, stop))


def finish(session: Session, saver: Saver, evaluations: Evaluations, stop: StopSignal) -> Iterator[Event]:
    """Writes the finished weights, then evaluates the best. All that a run is worth is saved by then, so an evaluation
    that fails is a note. Errors: `RunError` where the disk refuses the weights; `Interrupted`."""
    step, world = session.state.step, session.world
    try:
        if failure := finish_weights(session):
            yield Event("note", step, {"text": failure})
    except OSError as error:
        what = f"the finished weights could not be written: {failure_reason(error, session)}"
        fix = f"the run is saved; free some space, then: vitrail train --resume {session.folder.path}"
        raise RunError(what, fix) from None
    try:
        # All is saved by now, so a signal ends this at once; of several processes each must wait for the others' rows.
        with stop.interrupt_immediately() if world.size == 1 else nullcontext():
            events = list(evaluations.evaluate_finished())
    except KeyboardInterrupt:
        raise interrupted(session, saver, stop) from None
    except Exception as error:
        if world.size > 1:  # the others would wait for this process
            raise
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
        text = f"the weights are saved, but could not be evaluated ({reason}); vitrail eval {session.folder.path}"
        events = [Event("note", step, {"text": text}), Event("done", step, {})]
    yield from events


def interrupted(session: Session, saver: Saver, stop: StopSignal) -> Interrupted:
    """The error after a signal. No process leaves before the one that saves: a launcher then kills the others."""
    failed = session.world.on_rank_zero(lambda: saver.failed)
    saved = f"not saved; {newest_checkpoint(session)}" if failed else "saved"
    what = f"stopped at step {session.state.step} of {session.steps}, {saved}"
    fix = f"go on with: vitrail train --resume {session.folder.path}"
    return Interrupted(what, fix, stop.exit_code if stop.number else 143)
