"""What a run reports to whoever iterates over it, and the log that keeps it."""

import sys
from collections.abc import Iterable
from types import TracebackType
from typing import Any, NamedTuple

from vitrail.engine.log import Log
from vitrail.engine.trackers import RunFacts, Trackers
from vitrail.errors import Interrupted
from vitrail.recipe import to_tables
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
            facts = RunFacts(session.folder.path, session.state.step, to_tables(session.recipe))
            trackers = Trackers(session.recipe.runtime, facts)
            self.log = Log(session.folder.log, session.state.step, trackers)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.log:
            self.log.close(failed=isinstance(error, Exception) and not isinstance(error, Interrupted))
            for note in self.log.take_notes():  # too late for an event
                sys.stderr.write(f"vitrail: note: {note}\n")

    def record(self, events: Iterable[Event]) -> list[Event]:
        """The events; rows of those with numbers are in the log before anybody sees them."""
        found = list(events)
        for event in found:
            if self.log and event.kind in LOGGED:
                self.log.write(event.kind, event.step, event.values)
        notes = self.log.take_notes() if self.log else []
        return [*found, *(Event("note", self.session.state.step, {"text": note}) for note in notes)]
