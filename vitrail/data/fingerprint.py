"""Detects changes of the files of a data set since a run began: a fingerprint, and the differences."""

import gzip
import hashlib
import zlib
from collections.abc import Iterable
from pathlib import Path

from vitrail.data.dataset import Entry
from vitrail.data.index.listing import pack_entries
from vitrail.errors import DataError

MAX_LISTED = 5  # differences of a kind that are listed by name


def fingerprint(entries: Iterable[Entry]) -> str:
    """SHA-256 (64 hexadecimal digits) over names, sizes and modification times, in any order. Of contents:
    `Survey.content`."""
    return pack_entries(entries).digest


def read_differences(path: Path, new: Iterable[Entry]) -> list[str]:
    """What changed since `write_entries` wrote the entries to a file. Raises `DataError` where it cannot be read."""
    if hashlib.sha256(read_text(path)).hexdigest() == fingerprint(new):
        return []
    return differences(read_entries(path), new)


def differences(old: Iterable[Entry], new: Iterable[Entry]) -> list[str]:
    """What was added, removed, resized, or only touched (another time, same size): one line each, first five names."""
    before, after = {e.name: e for e in old}, {e.name: e for e in new}
    both = before.keys() & after.keys()
    resized = {n for n in both if before[n].size != after[n].size}
    kinds = {
        "added": after.keys() - before.keys(),
        "removed": before.keys() - after.keys(),
        "resized": resized,
        "touched (same size, another modification time)": {
            n for n in both - resized if before[n].modified != after[n].modified
        },
    }
    return [_format_names(kind, sorted(names)) for kind, names in kinds.items() if names]


def _format_names(kind: str, names: list[str]) -> str:
    more = f", and {len(names) - MAX_LISTED:,} more" if len(names) > MAX_LISTED else ""
    return f"{len(names):,} {kind}: {', '.join(names[:MAX_LISTED])}{more}"


def write_entries(path: Path, entries: Iterable[Entry]) -> None:
    """Writes the entries as gzipped text, one line each, sorted; equal entries give equal bytes."""
    path.write_bytes(pack_entries(entries).packed)


def read_text(path: Path) -> bytes:
    """The text that `write_entries` wrote. Raises `DataError` where the file is missing or damaged."""
    try:
        return gzip.decompress(Path(path).read_bytes())
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise unreadable(path, error) from None


def read_entries(path: Path) -> tuple[Entry, ...]:
    """Reads the entries that `write_entries` wrote. Raises `DataError` where the file is missing or damaged."""
    try:
        return tuple(_entry(line) for line in read_text(path).split(b"\n")[:-1])
    except ValueError as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: the list of the data set's files cannot be read: {error}", "begin a new run")


def _entry(line: bytes) -> Entry:
    size, modified, name = line.split(b"\t", 2)
    text = name.decode(errors="surrogateescape").replace("%0A", "\n").replace("%25", "%")
    return Entry(text, int(size), int(modified))
