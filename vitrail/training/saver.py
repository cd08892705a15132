"""Checkpoints of a run, and what is done where a disk refuses them."""

import dataclasses
from collections.abc import Iterator
from types import TracebackType

from vitrail.assembly.model import describe_bundle
from vitrail.engine import checkpoint
from vitrail.engine.processes.tensors import whole_tensor
from vitrail.engine.processes.writer import CheckpointWriter
from vitrail.errors import RunError
from vitrail.storage.atomic import write_file
from vitrail.storage.tensors import stream
from vitrail.training.evaluations import remove_stale, restore_best
from vitrail.training.events import Event
from vitrail.training.session import Session

FAILED_SAVES = 3  # in a row, before a run gives up


def newest_checkpoint(session: Session) -> str:
    """For messages."""
    saved = checkpoint.list_checkpoints(session.folder.checkpoints)
    return f"the last checkpoint is {saved[0].name}" if saved else "there was no checkpoint yet"


def write_weights(session: Session) -> None:
    """Writes the finished weights, in the process that writes. Errors: `OSError` where the disk refuses."""
    state, bundle = session.state, session.bundle
    state.gather()
    second = {} if state.ema2 is None else {n: whole_tensor(t) for n, t in state.ema2.module.state_dict().items()}
    if not session.world.is_first:
        return
    about = describe_bundle(dataclasses.replace(bundle, model=state.best_model, recipe=session.recipe))
    write_file(session.folder.weights, stream(dict(state.best_model.state_dict()), about))
    if state.ema2 is not None:
        write_file(session.folder.ema2, stream(second, about))


def finish_weights(session: Session) -> str:
    """Writes the finished weights, the last ones or with patience the best, and leaves the best in memory where the run
    keeps them; returns why it could not. Errors: `OSError` where the disk refuses."""
    if session.recipe.train.patience:
        restore_best(session)
        write_weights(session)
        return ""
    write_weights(session)
    return restore_best(session)


class Saver:
    """Writes checkpoints; a disk that refuses costs a message, and the run only when it refuses again and again."""

    def __init__(self, session: Session):
        runtime, folder = session.recipe.runtime, session.folder.checkpoints
        self.session = session
        self.failed = 0
        self.writer = CheckpointWriter(folder, session.world, runtime.keep_checkpoints, runtime.async_checkpoint)

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.writer.join()

    def save(self, final: bool = False, wait: bool = False) -> Iterator[Event]:
        """`final`: no other save will come. wait: return when it is on disk, also where others are written in the
        background."""
        self.writer.join()
        yield from self.report(final=False)
        self.session.saving = (self.session.state.early_stopping.step,)
        self.writer.save(self.session.state, final or wait)
        if self.writer.thread is None:  # else it is reported at the next save, not when it happens to end
            yield from self.report(final)

    def report(self, final: bool) -> Iterator[Event]:
        """What became of saves. Errors: `RunError` after too many that failed."""
        session = self.session
        for step, path, error in self.writer.finished():
            session.saving = ()
            if error is None:
                self.failed = 0
                remove_stale(session)
            else:
                self.failed += 1
            if not session.world.is_first:
                continue
            if error is None:
                yield Event("saved", step, {"path": str(path)})
                continue
            what = f"step {step} could not be saved: {failure_reason(error, session)}"
            if self.failed >= FAILED_SAVES or final:
                raise RunError(what, f"free some space, then: vitrail train --resume {session.folder.path}") from None
            yield Event("note", step, {"text": f"{what}; older checkpoints are untouched, going on"})


def failure_reason(error: Exception, session: Session) -> str:
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
