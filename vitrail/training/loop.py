"""The order of a run: step, log, evaluate, save, and at the end the finished weights and the judgement of them."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import torch

from vitrail.assembly import model
from vitrail.assembly.lock import held
from vitrail.data.loader import Fetch, TrainRequests, load, losses_told
from vitrail.engine.log import Log
from vitrail.engine.schedule import rate
from vitrail.engine.signals import Stop
from vitrail.engine.train import Loop, NotFinite, Piece, train
from vitrail.errors import Interrupted, RunError
from vitrail.storage.atomic import write_file
from vitrail.storage.tensors import pack
from vitrail.training import divergence
from vitrail.training.evaluations import Evaluations, judged, restore
from vitrail.training.events import Event
from vitrail.training.feed import stream
from vitrail.training.metrics_window import Window
from vitrail.training.resume import record
from vitrail.training.samples import Moments
from vitrail.training.saver import Saver, newest, reason
from vitrail.training.session import Session
from vitrail.types import Batch


def run(session: Session) -> Iterator[Event]:
    """Steps to the end of the recipe and finishes the run's folder; yields what there is to tell.

    Errors: `RunError` with the names of the batch where a number is not finite, after three saves in a row have failed, and where
    another process works in the folder; `Interrupted` after a signal (saved first).
    """
    with held(session.folder.path, session.world):
        if session.changed and session.world.first:
            record(session)
        log = Log(session.folder.log, session.state.step, session.recipe.machine.tensorboard) if session.world.first else None
        try:
            for event in events(session):
                if log and event.kind in ("train", "eval"):
                    log.write(event.kind, event.step, event.values)
                yield event
        finally:
            if log:
                log.close()


def events(session: Session) -> Iterator[Event]:
    with Stop() as stop, losses_told():
        saver, evaluations = Saver(session), Evaluations(session)
        yield from evaluations.missed()
        yield from Moments(session).missed()
        if not evaluations.enough:
            yield from stepping(session, stop, saver, evaluations)
        if evaluations.enough and session.state.step < session.steps:
            yield evaluations.told()
        yield from finish(session, stop, saver, evaluations)


def stepping(session: Session, stop: Stop, saver: "Saver", evaluations: Evaluations) -> Iterator[Event]:
    """Every step that is still to do, or those until it is known that more would bring nothing."""
    machine, window, looping, moments = session.recipe.machine, Window(session), loop(session, stop), Moments(session)
    try:
        for report in train(session.state, session.described.task, batches(session), looping):
            window.add(report)
            last, logged = report.step == session.steps, report.step % machine.log_every == 0
            if logged or last:
                yield from window.close(report)
            if evaluations.due(report.step) and not report.stop:
                yield from evaluations.judge()
            if moments.due(report.step) and not report.stop:
                yield from moments.make()
            enough = evaluations.enough
            if enough and not (logged or last):
                yield from window.close(report)
            if report.step % machine.save_every == 0 or last or enough or report.stop:
                yield from saver.save(final=last or enough)
            if report.stop:
                raise interrupted(report.step, session, saver, stop)
            if enough:
                return
    except NotFinite as error:
        raise divergence.told(error, session, looping.rate(error.step - 1)) from None


def interrupted(step: int, session: Session, saver: "Saver", stop: Stop) -> Interrupted:
    """What is said after a signal. No process leaves before the one that saves: a launcher kills the others when one has left."""
    failed = session.world.once(lambda: saver.failed)
    kept = f"not saved; {newest(session)}" if failed else "saved"
    where = f"stopped at step {step} of {session.steps}, {kept}"
    return Interrupted(where, f"go on with: vitrail train --resume {session.folder.path}", stop.code if stop.number else 143)


def batches(session: Session) -> Iterator[list[Piece]]:
    """The pieces of every step that is still to do."""
    split, world = session.dataset.splits["train"], session.world
    requests = TrainRequests(stream(session.recipe, split), session.state.step, session.steps, world.rank, world.size)
    for loaded in load(Fetch(split, session.feed.transform), requests, session.workers):
        yield session.feed.pieces(loaded, world)


def loop(session: Session, stop: Stop) -> Loop:
    o = session.recipe.optim
    peak, warmup, steps = o.lr or 0.0, o.warmup or 0, session.steps
    return Loop(
        rate=lambda step: peak * rate(step, steps, warmup, o.schedule or "cosine", o.final),
        prepare=channels_last(session) if session.recipe.machine.channels_last else session.feed.prepare,
        clip=o.clip,
        seed=session.recipe.plan.seed,
        precision=session.precision,
        world=session.world,
        stopping=stop.asked,
        waves=session.waves,
    )


def channels_last(session: Session) -> Callable[[Piece, int], Batch]:
    """Batches whose pictures lie in memory as the weights of the model do."""

    def prepare(piece: Piece, step: int) -> Batch:
        batch = session.feed.prepare(piece, step)
        return Batch(batch.inputs.contiguous(memory_format=torch.channels_last), batch.targets)

    return prepare


def finish(session: Session, stop: Stop, saver: Saver, evaluations: Evaluations) -> Iterator[Event]:
    """The finished weights, then the judgement of them. All is saved by now, so a signal ends it at once."""
    step = session.state.step
    restore(session)
    described = model.Described(session.state.best, session.described.task, session.recipe, session.described.classes)
    try:
        if session.world.first:
            write_file(session.folder.weights, pack(dict(session.state.best.state_dict()), model.about(described)))
            if session.state.ema2 is not None:
                write_file(session.folder.second, pack(dict(session.state.ema2.module.state_dict()), model.about(described)))
        with leaving(session, stop):
            values = judged(session, evaluations.frechet, final=True)
    except OSError as error:
        told = f"the finished weights could not be written: {reason(error, session)}"
        raise RunError(told, f"the run is saved; free some space, then: vitrail train --resume {session.folder.path}") from None
    except KeyboardInterrupt:
        raise interrupted(step, session, saver, stop) from None
    yield Event("eval", step, values)
    yield Event("done", step, values)


def leaving(session: Session, stop: Stop) -> AbstractContextManager:
    """One process alone may leave in the middle of the last judgement; of several each must wait for the others' predictions."""
    return stop.leaving_at_once() if session.world.size == 1 else nullcontext()
