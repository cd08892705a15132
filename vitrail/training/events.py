"""What a run reports to whoever iterates over it, and the log that keeps it."""

from collections.abc import Iterable
from types import TracebackType
from typing import Any, NamedTuple

from vitrail.engine.log import Log
from vitrail.training.resume import record_changes
from vitrail.training.session import Session

LOGGED = ("train", "eval")


class Event(NamedTuple):
    """A report: "train", "eval", "saved", "note", "stopped" or "done", at a step, with numbers or a text."""

    kind: str
    step: int
    values: dict[str, Any]


class RunLog:
    """The log of a run while it goes on, in the process that writes. Opening it also keeps what a resume changed."""

    def __init__(self, session: Session):
        self.session = session
        self.log: Log | None = None

    def __enter__(self) -> "RunLog":
        session = self.session
        if session.world.is_first:
            if session.changed:
                record_changes(session)
            self.log = Log(session.folder.log, session.state.step, session.recipe.runtime.tensorboard)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.log:
            self.log.close()

    def record(self, events: Iterable[Event]) -> list[Event]:
        """The events; rows of those with numbers are in the log before anybody sees them."""
        found = list(events)
        for event in found:
            if self.log and event.kind in LOGGED:
                self.log.write(event.kind, event.step, event.values)
        return found
