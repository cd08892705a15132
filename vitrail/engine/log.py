"""The log of a run: one JSON object a line, always; trackers when asked."""

import contextlib
import json
from pathlib import Path
from typing import Any

from vitrail.engine.trackers import Trackers
from vitrail.storage.atomic import write_file
from vitrail.storage.json_text import to_json


class Log:
    """Appends rows to `log.jsonl`. On resuming, rows of steps that will be repeated are removed first.

    A row that cannot be written is kept in memory and written with the next one: a full disk must not end a run.
    """

    def __init__(self, path: Path, step: int = 0, trackers: Trackers | None = None):
        if path.exists():
            kept = [row for row in read_rows(path) if row.get("step", 0) <= step]
            write_file(path, "".join(to_json(row) + "\n" for row in kept).encode())
        self.file = path.open("a", encoding="utf-8")
        self.trackers = trackers

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            self.file.write(to_json({"kind": kind, "step": step, **values}) + "\n")
            self.file.flush()
        if self.trackers:
            self.trackers.write(kind, step, values)

    def close(self, failed: bool = False) -> None:
        """failed: whether an error ended the run, for the trackers."""
        with contextlib.suppress(OSError):
            self.file.close()
        if self.trackers:
            self.trackers.close(failed)

    def take_notes(self) -> list[str]:
        """Notes about the trackers, each once."""
        notes = self.trackers.notes if self.trackers else []
        if self.trackers:
            self.trackers.notes = []
        return notes


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Every complete row of a log; a truncated last line is skipped."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows
