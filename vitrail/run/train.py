"""The order of a run: step, log, evaluate, save, and at the end the finished weights and the judgement of them."""

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from vitrail.data.loader import Fetch, TrainRequests, load, losses_told
from vitrail.data.sampling import Stream
from vitrail.engine import checkpoint
from vitrail.engine.log import Log
from vitrail.engine.schedule import rate
from vitrail.engine.stop import Stop
from vitrail.engine.train import Loop, NotFinite, Piece, Report, train
from vitrail.errors import Interrupted, RunError
from vitrail.run import evaluate, model
from vitrail.run.prepare import held_out
from vitrail.run.session import Session, record
from vitrail.weights.file import pack, write_file

FAILED_SAVES = 3  # in a row, before a run gives up


class Event(NamedTuple):
    """Something to tell: "train", "eval", "saved", "note" or "done", at a step, with numbers or words."""

    kind: str
    step: int
    values: dict[str, Any]


def run(session: Session) -> Iterator[Event]:
    """Steps to the end of the recipe and finishes the run's folder; yields what there is to tell.

    Errors: `NotFinite` with the names of the batch, `Interrupted` after a signal (saved first), `RunError` after three saves
    in a row have failed.
    """
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
    state, machine = session.state, session.recipe.machine
    with Stop() as stop, losses_told():
        window, saver = Window(session), Saver(session)
        try:
            for report in train(state, session.described.task, batches(session), loop(session, stop)):
                window.add(report)
                last = report.step == session.steps
                if report.step % machine.log_every == 0 or last:
                    yield Event("train", report.step, window.close(report))
                if not last and due(report.step, session.recipe.plan.eval_every) and not report.stop:
                    yield Event("eval", report.step, judged(session))
                if report.step % machine.save_every == 0 or last or report.stop:
                    yield from saver.save()
                if report.stop and not last:
                    raise interrupted(report.step, session, saver, stop)
        except NotFinite as error:
            raise named(error, session) from None
        yield from finish(session)


def interrupted(step: int, session: Session, saver: "Saver", stop: Stop) -> Interrupted:
    """What is said after a signal. No process leaves before the one that saves: a launcher kills the others when one has left."""
    failed = session.world.once(lambda: saver.failed)
    kept = f"not saved; {newest(session)}" if failed else "saved"
    where = f"stopped at step {step} of {session.steps}, {kept}"
    return Interrupted(where, f"go on with: vitrail train --resume {session.folder.path}", stop.code if stop.number else 143)


def newest(session: Session) -> str:
    saved = checkpoint.listed(session.folder.checkpoints)
    return f"the last checkpoint is {saved[0].name}" if saved else "there was no checkpoint yet"


def due(step: int, every: int | None) -> bool:
    return bool(every) and step % (every or 1) == 0


def batches(session: Session) -> Iterator[list[Piece]]:
    """The pieces of every step that is still to do."""
    split, plan, world = session.dataset.splits["train"], session.recipe.plan, session.world
    stream = Stream(plan.seed, len(split), plan.batch or 1)
    requests = TrainRequests(stream, session.state.step, session.steps, world.rank, world.size)
    for loaded in load(Fetch(split, session.feed.augmentation), requests, session.workers):
        yield session.feed.pieces(loaded, world.rank)


def loop(session: Session, stop: Stop) -> Loop:
    o = session.recipe.optim
    peak, warmup, steps = o.lr or 0.0, o.warmup or 0, session.steps
    return Loop(
        rate=lambda step: peak * rate(step, steps, warmup, o.schedule, o.final),
        prepare=session.feed.prepare,
        clip=o.clip,
        seed=session.recipe.plan.seed,
        precision=session.precision,
        world=session.world,
        stopping=stop.asked,
    )


class Window:
    """What happened since the last line of the log."""

    def __init__(self, session: Session):
        self.session = session
        self.reports: list[Report] = []
        self.spent, self.done = 0.0, 0

    def add(self, report: Report) -> None:
        self.reports.append(report)
        self.spent += report.step_s
        self.done += 1

    def close(self, report: Report) -> dict[str, Any]:
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

    def save(self) -> Iterator[Event]:
        session, step = self.session, self.session.state.step
        if not session.world.first:
            return
        try:
            path = checkpoint.save(
                session.folder.checkpoints, session.state.tensors(), session.state.numbers(), session.recipe.machine.keep
            )
            self.failed = 0
            yield Event("saved", step, {"path": str(path)})
        except Exception as error:
            self.failed += 1
            told = f"step {step} could not be saved: {reason(error, session)}"
            if self.failed >= FAILED_SAVES or step == session.steps:
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


def judged(session: Session, final: bool = False) -> dict[str, Any]:
    """The numbers of the held-out part, and the seconds they took. At the end the judgement is kept."""
    start = time.perf_counter()
    part = held_out(session.dataset, final)
    split = session.dataset.splits[part]
    described = model.Described(session.state.best, session.described.task, session.recipe, session.described.classes)
    metrics, found = evaluate.judge(described, split, session.preprocess, session.world, session.workers, session.precision)
    if final and session.world.first:
        evaluate.keep(session.folder, part, metrics, found, [split.names[i] for i in range(len(split))])
    return {"part": part, **evaluate.scalars(metrics), "eval_s": round(time.perf_counter() - start, 3)}


def finish(session: Session) -> Iterator[Event]:
    """The finished weights, then the judgement of them."""
    described = model.Described(session.state.best, session.described.task, session.recipe, session.described.classes)
    try:
        if session.world.first:
            write_file(session.folder.weights, pack(dict(session.state.best.state_dict()), model.about(described)))
        values = judged(session, final=True)
    except OSError as error:
        told = f"the finished weights could not be written: {reason(error, session)}"
        raise RunError(told, f"the run is saved; free some space, then: vitrail train --resume {session.folder.path}") from None
    yield Event("eval", session.steps, values)
    yield Event("done", session.steps, values)


def named(error: NotFinite, session: Session) -> RunError:
    """The error with the pictures of the batch in it, and the last checkpoint."""
    names = session.dataset.splits["train"].names
    shown = ", ".join(names[int(i)] for i in error.keys.ids[:8])
    return RunError(f"{error.what}; {newest(session)}; the batch: {shown}{', ...' if len(error.keys.ids) > 8 else ''}", error.fix)
