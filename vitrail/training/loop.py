"""The page that is the run: step, log, evaluate, save; at the end the finished weights and their evaluation."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext

import torch

from vitrail.assembly.lock import hold_lock
from vitrail.assembly.model import ModelBundle, describe_bundle
from vitrail.data.loader import Fetcher, TrainRequests, load_batches, raise_on_worker_death
from vitrail.engine.schedule import lr_factor
from vitrail.engine.signals import StopSignal
from vitrail.engine.train import LoopSettings, MicroBatch, NonFiniteError, StepReport, train_steps
from vitrail.errors import Interrupted, RunError
from vitrail.storage.atomic import write_file
from vitrail.storage.tensors import pack
from vitrail.training.divergence import explain_divergence
from vitrail.training.evaluations import Evaluations, evaluate_session, restore_best
from vitrail.training.events import Event, RunLog
from vitrail.training.feed import build_stream
from vitrail.training.metrics_window import MetricsWindow
from vitrail.training.samples import SampleSnapshots
from vitrail.training.saver import Saver, failure_reason, newest_checkpoint
from vitrail.training.session import Session
from vitrail.types import Batch


def run_training(session: Session) -> Iterator[Event]:
    """Steps to the end of the recipe and finishes the run's directory. Whoever iterates prints, plots or stops.

    Errors: `RunError` with the names of the batch where a number is not finite, after three failed saves in a row, and
    where another process works in the directory; `Interrupted` after a signal (saved first).
    """
    state, runtime, world = session.state, session.recipe.runtime, session.world
    with hold_lock(session.folder.path, world), RunLog(session) as log, StopSignal() as stop, raise_on_worker_death():
        window, saver, samples = MetricsWindow(session), Saver(session), SampleSnapshots(session)
        evaluations, settings = Evaluations(session), loop_settings(session, stop)

        # A signal may have come between a step and what was due after it: a resumed run does that first and misses nothing.
        yield from log.record(evaluations.evaluate_missed())
        yield from log.record(samples.write_missed())

        # A run that had stopped early takes no step again: what is left of it is its end.
        steps: Iterable[StepReport] = ()
        if not evaluations.should_stop:
            steps = train_steps(state, session.bundle.task, remaining_batches(session), settings)
        try:
            for report in steps:
                window.add(report)
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
                    yield from log.record(saver.save(final=last or enough))
                if report.stop:
                    raise interrupted(session, saver, stop)
                if enough:
                    break
        except NonFiniteError as error:  # the weights are those of before the step; the batch and the finding are kept
            raise explain_divergence(error, session, settings.lr_at(error.step - 1)) from None

        if evaluations.should_stop and state.step < session.steps:
            yield evaluations.stop_message()
        yield from log.record(finish(session, saver, evaluations, stop))


def remaining_batches(session: Session) -> Iterator[list[MicroBatch]]:
    """The micro-batches of every step that is still to do: the batch of a step is a function of the step alone."""
    split, world = session.dataset.splits["train"], session.world
    stream = build_stream(session.recipe, split)
    requests = TrainRequests(stream, session.state.step, session.steps, world.rank, world.size)
    for loaded in load_batches(Fetcher(split, session.feed.transform), requests, session.workers):
        yield session.feed.micro_batches(loaded, world)


def loop_settings(session: Session, stop: StopSignal) -> LoopSettings:
    """What of a recipe a step depends on; the learning rate is a function of the step."""
    o = session.recipe.optim
    peak, warmup, steps = o.lr or 0.0, o.warmup_steps or 0, session.steps
    return LoopSettings(
        lr_at=lambda step: peak * lr_factor(step, steps, warmup, o.schedule or "cosine", o.min_lr_ratio),
        prepare=channels_last(session) if session.recipe.runtime.channels_last else session.feed.prepare,
        clip_grad=o.clip_grad,
        seed=session.recipe.train.seed,
        precision=session.precision,
        world=session.world,
        stop_requested=stop.is_requested,
        unfreeze_stages=session.unfreeze_stages,
    )


def channels_last(session: Session) -> Callable[[MicroBatch, int], Batch]:
    """Batches whose images lie in memory as the weights of the model do."""

    def prepare(micro_batch: MicroBatch, step: int) -> Batch:
        batch = session.feed.prepare(micro_batch, step)
        return Batch(batch.inputs.contiguous(memory_format=torch.channels_last), batch.targets)

    return prepare


def finish(session: Session, saver: Saver, evaluations: Evaluations, stop: StopSignal) -> list[Event]:
    """Writes the finished weights, then evaluates them. Errors: `RunError` where the disk refuses; `Interrupted`."""
    folder, state = session.folder, session.state
    restore_best(session)  # with patience, the weights of the best evaluation take the place of the last
    bundle = ModelBundle(state.best_model, session.bundle.task, session.recipe, session.bundle.classes)
    try:
        if session.world.is_first:
            write_file(folder.weights, pack(dict(state.best_model.state_dict()), describe_bundle(bundle)))
            if state.ema2 is not None:
                write_file(folder.ema2, pack(dict(state.ema2.module.state_dict()), describe_bundle(bundle)))
        # All is saved by now, so a signal ends this at once; of several processes each must wait for the others' rows.
        with stop.interrupt_immediately() if session.world.size == 1 else nullcontext():
            values = evaluate_session(session, evaluations.frechet, final=True)
    except OSError as error:
        what = f"the finished weights could not be written: {failure_reason(error, session)}"
        fix = f"the run is saved; free some space, then: vitrail train --resume {folder.path}"
        raise RunError(what, fix) from None
    except KeyboardInterrupt:
        raise interrupted(session, saver, stop) from None
    return [Event("eval", state.step, values), Event("done", state.step, values)]


def interrupted(session: Session, saver: Saver, stop: StopSignal) -> Interrupted:
    """The error after a signal. No process leaves before the one that saves: a launcher kills the others when one has left."""
    failed = session.world.on_rank_zero(lambda: saver.failed)
    saved = f"not saved; {newest_checkpoint(session)}" if failed else "saved"
    what = f"stopped at step {session.state.step} of {session.steps}, {saved}"
    fix = f"go on with: vitrail train --resume {session.folder.path}"
    return Interrupted(what, fix, stop.exit_code if stop.number else 143)
