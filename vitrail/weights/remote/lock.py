"""`weights.lock`: which file a name meant when it was first used, by its SHA-256, so that it never becomes another.

The lock of the working folder, if there is one, else that of the user (`~/.cache/vitrail/weights.lock`). It is TOML and
may be edited: removing a table forgets what was pinned.
"""

import contextlib
import re
import tomllib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from vitrail.errors import CheckpointError
from vitrail.storage.atomic import write_file
from vitrail.storage.cache_folder import cache_folder

NAME = "weights.lock"
HEAD = (
    "# vitrail: weights by name, the SHA-256 of their files at first use. Remove a table to take what is there now.\n\n"
)


@dataclass(frozen=True)
class Pin:
    """What was found at first use. path: of a file in a folder made by `vitrail fetch`, relative to it."""

    sha256: str
    size: int = 0  # bytes
    revision: str = ""  # the commit of a repository
    licence: str = ""
    accepted: bool = False  # the licence was accepted by name
    path: str = ""


KINDS = {field.name: type(field.default) for field in fields(Pin)[1:]} | {"sha256": str}


def own_folder() -> Path:
    """The user's folder of vitrail: the lock, and files of addresses."""
    return cache_folder()


def lock_path() -> Path:
    return Path(NAME) if Path(NAME).is_file() else own_folder() / NAME


def read_lock(path: Path) -> dict[str, Pin]:
    """The pins by name. Errors: `CheckpointError` for a file that was damaged."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, RecursionError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise CheckpointError(f"{path} cannot be read: {why}", "mend it, or remove it to pin anew") from None
    return {key: parse_pin(key, table, path) for key, table in tables.items()}


def parse_pin(key: str, table: Any, path: Path) -> Pin:
    """Errors: `CheckpointError` that names the table."""
    known = {k: v for k, v in table.items() if k in KINDS} if isinstance(table, dict) else {}
    sound = all(type(v) is KINDS[k] for k, v in known.items())
    if not sound or not re.fullmatch(r"[0-9a-f]{64}", known.get("sha256", "")):
        raise CheckpointError(f"[{key[:120]}] in {path} is no pin: it has no sha256 of 64 digits", "remove that table")
    return Pin(**known)


def find_pin(key: str) -> Pin | None:
    return read_lock(lock_path()).get(key)


def save_pin(key: str, pin: Pin, path: Path | None = None) -> None:
    """Adds a pin, or replaces it. Where the disk refuses, the file is as good as unpinned: it is checked by what the
    server states."""
    from filelock import FileLock

    path = path or lock_path()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            pins = read_lock(path)
            if pins.get(key) != pin:
                write_file(path, format_lock({**pins, key: pin}).encode())


def format_lock(pins: dict[str, Pin]) -> str:
    import tomli_w

    tables = {key: {k: v for k, v in asdict(pins[key]).items() if v} for key in sorted(pins)}
    return HEAD + tomli_w.dumps(tables)
