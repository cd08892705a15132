"""The order of a run: step, log, evaluate, save, and at the end the finished weights and the judgement of them."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import torch

from vitrail.assembly import model
from vitrail.assembly.lock import hold_lock
from vitrail.data.loader import Fetcher, TrainRequests, load_batches, raise_on_worker_death
from vitrail.engine.log import Log
from vitrail.engine.schedule import lr_factor
from vitrail.engine.signals import StopSignal
from vitrail.engine.train import LoopSettings, MicroBatch, NonFiniteError, train_steps
from vitrail.errors import Interrupted, RunError
from vitrail.storage.atomic import write_file
from vitrail.storage.tensors import pack
from vitrail.training import divergence
from vitrail.training.evaluations import Evaluations, evaluate_session, restore_best
from vitrail.training.events import Event
from vitrail.training.feed import build_stream
from vitrail.training.metrics_window import MetricsWindow
from vitrail.training.resume import record_changes
from vitrail.training.samples import SampleSnapshots
from vitrail.training.saver import Saver, newest, reason
from vitrail.training.session import Session
from vitrail.types import Batch


def run_training(session: Session) -> Iterator[Event]:
    """Steps to the end of the recipe and finishes the run's folder; yields what there is to tell.

    Errors: `RunError` with the names of the batch where a number is not finite, after three saves in a row have failed, and where
    another process works in the folder; `Interrupted` after a signal (saved first).
    """
    with hold_lock(session.folder.path, session.world):
        if session.changed and session.world.is_first:
            record_changes(session)
        log = (
            Log(session.folder.log, session.state.step, session.recipe.runtime.tensorboard)
            if session.world.is_first
            else None
        )
        try:
            for event in events(session):
                if log and event.kind in ("train", "eval"):
                    log.write(event.kind, event.step, event.values)
                yield event
        finally:
            if log:
                log.close()


def events(session: Session) -> Iterator[Event]:
    with StopSignal() as stop, raise_on_worker_death():
        saver, evaluations = Saver(session), Evaluations(session)
        yield from evaluations.evaluate_missed()
        yield from SampleSnapshots(session).write_missed()
        if not evaluations.should_stop:
            yield from stepping(session, stop, saver, evaluations)
        if evaluations.should_stop and session.state.step < session.steps:
            yield evaluations.stop_message()
        yield from finish(session, stop, saver, evaluations)


def stepping(session: Session, stop: StopSignal, saver: "Saver", evaluations: Evaluations) -> Iterator[Event]:
    """Every step that is still to do, or those until it is known that more would bring nothing."""
    machine, window, looping, moments = (
        session.recipe.runtime,
        MetricsWindow(session),
        loop_settings(session, stop),
        SampleSnapshots(session),
    )
    try:
        for report in train_steps(session.state, session.bundle.task, remaining_batches(session), looping):
            window.add(report)
            last, logged = report.step == session.steps, report.step % machine.log_every == 0
            if logged or last:
                yield from window.close(report)
            if evaluations.is_due(report.step) and not report.stop:
                yield from evaluations.evaluate()
            if moments.is_due(report.step) and not report.stop:
                yield from moments.write()
            enough = evaluations.should_stop
            if enough and not (logged or last):
                yield from window.close(report)
            if report.step % machine.save_every == 0 or last or enough or report.stop:
                yield from saver.save(final=last or enough)
            if report.stop:
                raise interrupted(report.step, session, saver, stop)
            if enough:
                return
    except NonFiniteError as error:
        raise divergence.explain_divergence(error, session, looping.lr_at(error.step - 1)) from None


def interrupted(step: int, session: Session, saver: "Saver", stop: StopSignal) -> Interrupted:
    """What is said after a signal. No process leaves before the one that saves: a launcher kills the others when one has left."""
    failed = session.world.on_rank_zero(lambda: saver.failed)
    kept = f"not saved; {newest(session)}" if failed else "saved"
    where = f"stopped at step {step} of {session.steps}, {kept}"
    return Interrupted(
        where, f"go on with: vitrail train --resume {session.folder.path}", stop.exit_code if stop.number else 143
    )


def remaining_batches(session: Session) -> Iterator[list[MicroBatch]]:
    """The pieces of every step that is still to do."""
    split, world = session.dataset.splits["train"], session.world
    requests = TrainRequests(
        build_stream(session.recipe, split), session.state.step, session.steps, world.rank, world.size
    )
    for loaded in load_batches(Fetcher(split, session.feed.transform), requests, session.workers):
        yield session.feed.micro_batches(loaded, world)


def loop_settings(session: Session, stop: StopSignal) -> LoopSettings:
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

    def prepare(piece: MicroBatch, step: int) -> Batch:
        batch = session.feed.prepare(piece, step)
        return Batch(batch.inputs.contiguous(memory_format=torch.channels_last), batch.targets)

    return prepare


def finish(session: Session, stop: StopSignal, saver: Saver, evaluations: Evaluations) -> Iterator[Event]:
    """The finished weights, then the judgement of them. All is saved by now, so a signal ends it at once."""
    step = session.state.step
    restore_best(session)
    bundle = model.ModelBundle(session.state.best_model, session.bundle.task, session.recipe, session.bundle.classes)
    try:
        if session.world.is_first:
            write_file(
                session.folder.weights, pack(dict(session.state.best_model.state_dict()), model.describe_bundle(bundle))
            )
            if session.state.ema2 is not None:
                write_file(
                    session.folder.ema2,
                    pack(dict(session.state.ema2.module.state_dict()), model.describe_bundle(bundle)),
                )
        with leaving(session, stop):
            values = evaluate_session(session, evaluations.frechet, final=True)
    except OSError as error:
        told = f"the finished weights could not be written: {reason(error, session)}"
        raise RunError(
            told, f"the run is saved; free some space, then: vitrail train --resume {session.folder.path}"
        ) from None
    except KeyboardInterrupt:
        raise interrupted(step, session, saver, stop) from None
    yield Event("eval", step, values)
    yield Event("done", step, values)


def leaving(session: Session, stop: StopSignal) -> AbstractContextManager:
    """One process alone may leave in the middle of the last judgement; of several each must wait for the others' predictions."""
    return stop.interrupt_immediately() if session.world.size == 1 else nullcontext()
