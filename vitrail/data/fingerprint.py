"""Detects changes of the files of a data set since a run began: a fingerprint, and the differences."""

import gzip
import hashlib
import zlib
from collections.abc import Iterable
from pathlib import Path

from vitrail.data.dataset import Entry
from vitrail.errors import DataError

MAX_LISTED = 5  # differences of a kind that are listed by name


def fingerprint(entries: Iterable[Entry]) -> str:
    """SHA-256 (64 hexadecimal digits) over names, sizes and modification times, in any order. Of contents:
    `Survey.content`."""
    digest = hashlib.sha256()
    for entry in sorted(entries):
        digest.update(_line(entry))
    return digest.hexdigest()


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
    with open(path, "wb") as raw, gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as file:
        file.writelines(_line(entry) for entry in sorted(entries))


def read_entries(path: Path) -> tuple[Entry, ...]:
    """Reads the entries that `write_entries` wrote. Raises `DataError` where the file is missing or damaged."""
    try:
        lines = gzip.decompress(Path(path).read_bytes()).split(b"\n")
        return tuple(_entry(line) for line in lines[:-1])
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(
            f"{path}: the list of the data set's files cannot be read: {error}", "begin a new run"
        ) from None


def _line(entry: Entry) -> bytes:
    # a name may contain line breaks and bytes that are not text: both must round-trip
    name = entry.name.replace("%", "%25").replace("\n", "%0A").encode(errors="surrogateescape")
    return b"%d\t%d\t%s\n" % (entry.size, entry.modified, name)


def _entry(line: bytes) -> Entry:
    size, modified, name = line.split(b"\t", 2)
    text = name.decode(errors="surrogateescape").replace("%0A", "\n").replace("%25", "%")
    return Entry(text, int(size), int(modified))
