"""The files of a large data set with their sizes and times, as arrays."""

import gzip
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, overload

import numpy as np

from vitrail.data.dataset import Entry
from vitrail.data.index.names import AT_ONCE, Names, pack_names

QUICK = 1  # gzip's level: of a million names a better one takes seconds


class Listing(Sequence[Entry]):
    """The files of a data set, sorted. sizes: int64 [N] bytes. times: int64 [N] nanoseconds. packed: the same as the
    gzipped text of `fingerprint`, if it is there."""

    def __init__(self, names: Names, sizes: np.ndarray, times: np.ndarray, digest: str = "", packed: Any = None):
        self.names, self.sizes, self.times = names, sizes, times
        self.known, self.compressed = digest, packed

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> list[Entry]: ...
    def __getitem__(self, index: int | slice) -> Entry | list[Entry]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return Entry(self.names[index], int(self.sizes[index]), int(self.times[index]))

    def __iter__(self) -> Iterator[Entry]:
        numbers = zip(np.asarray(self.sizes).tolist(), np.asarray(self.times).tolist(), strict=True)
        return (Entry(name, size, time) for name, (size, time) in zip(self.names, numbers, strict=True))

    def lines(self) -> Iterator[bytes]:
        """A line of text for each file, in blocks: size, time and name with tabs between. Line breaks in names are
        written as %0A."""
        for first in range(0, len(self), AT_ONCE):
            part = slice(first, first + AT_ONCE)
            names = Names(self.names.text, self.names.starts[part], self.names.ends[part]).encoded()
            sizes, times = (np.asarray(values)[part].tolist() for values in (self.sizes, self.times))
            yield b"".join(
                b"%d\t%d\t%s\n" % (size, time, escape(name))
                for size, time, name in zip(sizes, times, names, strict=True)
            )

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the lines."""
        if self.known:
            return self.known
        whole = hashlib.sha256()
        for block in self.lines():
            whole.update(block)
        return whole.hexdigest()

    @cached_property
    def packed(self) -> bytes:
        """The lines, gzipped; equal files give equal bytes."""
        if self.compressed is not None:
            return bytes(self.compressed)
        return gzip.compress(b"".join(self.lines()), QUICK, mtime=0)


def escape(name: bytes) -> bytes:
    """A name may contain line breaks: they must round-trip."""
    return name.replace(b"%", b"%25").replace(b"\n", b"%0A") if b"%" in name or b"\n" in name else name


def pack_entries(entries: Iterable[Entry]) -> Listing:
    """The files, sorted, as arrays; those that are such already as they are."""
    if isinstance(entries, Listing):
        return entries
    ordered = sorted(entries)
    sizes = np.fromiter((entry.size for entry in ordered), np.int64, len(ordered))
    times = np.fromiter((entry.modified for entry in ordered), np.int64, len(ordered))
    return Listing(pack_names(entry.name for entry in ordered), sizes, times)
