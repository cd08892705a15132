"""Whether the shards of a folder are those of its index."""

from collections.abc import Sequence
from pathlib import Path

from vitrail.data.dataset import Entry
from vitrail.data.shards.http import check_pin
from vitrail.data.shards.index import NAME
from vitrail.errors import DataError


def check_shards(folder: Path, shards: Sequence[Entry], sha256: str = "") -> None:
    """By their sizes; each image is checked by its hash when it is read. Errors: `DataError` for a shard that is not
    there, was cut short, or is newer than the index and another; for another index than the one that is pinned."""
    check_pin(folder / NAME, sha256)
    for one in shards:
        path = folder / one.name
        try:
            stat = path.stat()
        except OSError as error:
            what = f"{path} cannot be read: {(error.strerror or str(error)).lower()}"
            raise DataError(what, "copy all shards of the index") from None
        if stat.st_size == one.size:
            continue
        newer = stat.st_mtime_ns > (folder / NAME).stat().st_mtime_ns
        why = "the index is older than it" if newer else "it is torn or was replaced"
        what = f"{path} has {stat.st_size:,} bytes, and the index says {one.size:,}: {why}"
        raise DataError(what, f"copy it again, or write the index anew: vitrail pack {folder}")
