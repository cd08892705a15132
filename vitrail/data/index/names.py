"""Many names as arrays: a tenth of the memory of Python's objects, and nothing
that a forked process would copy by counting its references."""

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np

from vitrail.data.index.arrays import release

AT_ONCE = 16384  # names that are decoded at a time


def encode_name(name: str) -> bytes:
    return name.encode(errors="surrogateescape")


class Names(Sequence[str]):
    """Names in one text. text: uint8 [T], UTF-8; name i is text[starts[i]:ends[i]]; both int64 [N]."""

    def __init__(self, text: np.ndarray, starts: np.ndarray, ends: np.ndarray):
        self.text, self.starts, self.ends = text, starts, ends

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return bytes(self.text[self.starts[index] : self.ends[index]]).decode(errors="surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (name.decode(errors="surrogateescape") for name in self.encoded())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def blocks(self, count: int = AT_ONCE) -> Iterator["Names"]:
        """The names in blocks of so many, in order; what is mapped from a file is in memory for a block at a time."""
        for first in range(0, len(self), count):
            part = slice(first, first + count)
            yield Names(self.text, self.starts[part], self.ends[part])
            self.release()

    def release(self) -> None:
        """Gives back the memory of names that are mapped from a file, until they are looked at again."""
        for array in (self.text, self.starts, self.ends):
            release(array)

    def encoded(self) -> Iterator[bytes]:
        """The names as bytes."""
        for first in range(0, len(self), AT_ONCE):
            starts, ends = self.starts[first : first + AT_ONCE], self.ends[first : first + AT_ONCE]
            low = int(starts.min())
            text = bytes(self.text[low : int(ends.max())])
            yield from (text[a:b] for a, b in zip((starts - low).tolist(), (ends - low).tolist(), strict=True))

    def select(self, indices: np.ndarray) -> "Names":
        """The names at some indices, of the same text."""
        return Names(self.text, np.asarray(self.starts)[indices], np.asarray(self.ends)[indices])


def pack_names(names: Iterable[str]) -> Names:
    """The names as arrays; those that are such already as they are."""
    if isinstance(names, Names):
        return names
    encoded = [encode_name(name) for name in names]
    ends = np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)), dtype=np.int64)
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]]) if len(ends) else ends.copy()
    return Names(np.frombuffer(b"".join(encoded), np.uint8), starts, ends)


def select_names(names: Sequence[str], indices: np.ndarray) -> Sequence[str]:
    """The names at some indices."""
    return names.select(indices) if isinstance(names, Names) else [names[i] for i in indices]
