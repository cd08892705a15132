"""A journal: a file of lines of JSON, each on the disk before its writer goes on, and read up to the first that is not whole."""

import json
import os
from pathlib import Path
from typing import Any


def read(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The whole lines of a journal, and how many bytes they take. What a power cut left behind the last whole line is left out, as is
    everything behind a line that is damaged: whoever wrote it can write it again."""
    found: list[dict[str, Any]] = []
    size = 0
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
        try:
            said = json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n") or not isinstance(said, dict):
            break
        found.append(said)
        size += len(line)
    return found, size


def trim(path: Path, size: int) -> None:
    """Cuts off what lies behind the whole lines."""
    if path.exists() and path.stat().st_size > size:
        os.truncate(path, size)


def add(path: Path, record: dict[str, Any]) -> None:
    """Appends a line and waits until the disk has it. Errors: `ValueError` for numbers that JSON does not know."""
    line = json.dumps(record, allow_nan=False) + "\n"
    with path.open("ab") as file:
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())
