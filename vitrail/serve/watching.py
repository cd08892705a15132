"""Whether files are as they were when a model was read from them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def fingerprint(path: Path) -> list[Any]:
    """What changes where a file is written, replaced or removed: path, bytes, time, inode."""
    try:
        state = path.stat()
    except OSError:
        return [str(path), 0, 0, 0]
    return [str(path), state.st_size, state.st_mtime_ns, state.st_ino]


def changed_files(before: Sequence[Sequence[Any]]) -> list[str]:
    return [row[0] for row in before if fingerprint(Path(row[0])) != list(row)]
