"""The order of a run: step, log, evaluate, save, and at the end the finished weights and the judgement of them."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from vitrail.data.loader import Fetch, TrainRequests, load, losses_told
from vitrail.engine import checkpoint
from vitrail.engine.log import Log
from vitrail.engine.schedule import rate
from vitrail.engine.stop import Stop
from vitrail.engine.train import Loop, NotFinite, Piece, Report, train
from vitrail.errors import Interrupted, RunError
from vitrail.run import divergence, model
from vitrail.run.event import Event
from vitrail.run.feed import stream
from vitrail.run.judging import Evaluations, judged, restore, tidy
from vitrail.run.lock import held
from vitrail.run.moments import Moments
from vitrail.run.session import Session, record
from vitrail.types import Batch
from vitrail.weights.file import pack, write_file

FAILED_SAVES = 3  # in a row, before a run gives up


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


def newest(session: Session) -> str:
    saved = checkpoint.listed(session.folder.checkpoints)
    return f"the last checkpoint is {saved[0].name}" if saved else "there was no checkpoint yet"


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


class Window:
    """What happened since the last line of the log."""

    def __init__(self, session: Session):
        self.session = session
        self.reports: list[Report] = []
        self.spent, self.done = 0.0, 0
        self.norms = divergence.Norms()

    def add(self, report: Report) -> None:
        self.reports.append(report)
        self.spent += report.step_s
        self.done += 1

    def close(self, report: Report) -> Iterator[Event]:
        """The row of the log, and a warning where a gradient was far above the usual."""
        exploded = self.norms.look(self.reports)
        yield Event("train", report.step, self.values(report))
        if exploded:
            yield Event("note", report.step, {"text": exploded})

    def values(self, report: Report) -> dict[str, Any]:
        """Means over the window; `eta_s` from the mean step since the start."""
        n, seconds = len(self.reports), sum(r.step_s for r in self.reports)
        terms = {name: sum(float(r.terms[name]) for r in self.reports) / n for name in report.terms}
        values = {
            "loss": sum(terms.values()),
            **(terms if len(terms) > 1 else {}),
            "lr": report.rate,
            "grad_norm": float(report.grad_norm),
            "images_per_s": round(n * self.session.feed.batch / max(seconds, 1e-9), 1),
            "data_wait": round(sum(r.wait_s for r in self.reports) / max(seconds, 1e-9), 4),
            "epoch": round(report.step * self.session.feed.batch / len(self.session.dataset.splits["train"]), 3),
            "eta_s": round((self.session.steps - report.step) * self.spent / self.done, 1),
        }
        self.reports = []
        return values


class Saver:
    """Writes checkpoints; a disk that refuses costs a message, and the run only when it refuses again and again."""

    def __init__(self, session: Session):
        self.session = session
        self.failed = 0

    def save(self, final: bool = False) -> Iterator[Event]:
        """`final`: no other save will come."""
        session, step = self.session, self.session.state.step
        if not session.world.first:
            return
        try:
            path = checkpoint.save(
                session.folder.checkpoints, session.state.tensors(), session.state.numbers(), session.recipe.machine.keep
            )
            self.failed = 0
            tidy(session)
            yield Event("saved", step, {"path": str(path)})
        except Exception as error:
            self.failed += 1
            told = f"step {step} could not be saved: {reason(error, session)}"
            if self.failed >= FAILED_SAVES or final:
                raise RunError(told, f"free some space, then: vitrail train --resume {session.folder.path}") from None
            yield Event("note", step, {"text": f"{told}; older checkpoints are untouched, going on"})


def reason(error: Exception, session: Session) -> str:
    """Why a disk refused, with what is needed and what is there."""
    import shutil

    if not isinstance(error, OSError):
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    need = sum(t.numel() * t.element_size() for part in session.state.tensors().values() for t in part.values())
    try:
        free = shutil.disk_usage(session.folder.path).free
        return f"{error.strerror} at {session.folder.checkpoints} ({need:,} bytes needed, {free:,} free)"
    except OSError:
        return f"{error.strerror} at {session.folder.checkpoints} ({need:,} bytes needed)"


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
