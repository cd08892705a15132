"""A journal: a file of JSON lines, each synced to disk when added, and read up to the first incomplete line."""

import json
import os
from pathlib import Path
from typing import Any

from vitrail.storage.json_text import to_json


def read(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The complete records of a journal, and their size in bytes. Everything behind the first incomplete or damaged
    line
    is ignored: its writer can write it again."""
    records: list[dict[str, Any]] = []
    size = 0
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
        try:
            record = json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n") or not isinstance(record, dict):
            break
        records.append(record)
        size += len(line)
    return records, size


def trim(path: Path, size: int) -> None:
    """Truncates the file behind its complete records."""
    if path.exists() and path.stat().st_size > size:
        os.truncate(path, size)


def add(path: Path, record: dict[str, Any]) -> None:
    """Appends a record and syncs it to disk; NaN and infinity, which JSON lacks, become null."""
    line = to_json(record) + "\n"
    with path.open("ab") as file:
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())
