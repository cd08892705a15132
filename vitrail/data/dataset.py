"""The data set, independent of its layout on disk: named splits of labelled images, read by index. Imports no torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from vitrail.data.index.arrays import share_array
from vitrail.data.index.names import select_names
from vitrail.errors import BadImage


class Entry(NamedTuple):
    """One file of a data set; a list of entries shows whether the set has changed since a run began."""

    name: str  # path below the root of the data set, with forward slashes
    size: int  # bytes
    modified: int  # nanoseconds


@dataclass
class Visited:
    """What of a folder was walked, to see later whether it is unchanged. folders: each with its inode in place of a
    size, the top one named ".". others: the files that are no images."""

    folders: list[Entry] = field(default_factory=list)
    others: list[Entry] = field(default_factory=list)


AnnotationKind = Literal["classes", "masks", "boxes", "captions", "none"]
IGNORE = 255  # mask value of ignored pixels


class Boxes(NamedTuple):
    """The objects in an image, in pixels of that image."""

    boxes: np.ndarray  # float32 [n 4] left, top, right, bottom
    labels: np.ndarray  # int64 [n] class indices
    crowd: np.ndarray  # bool [n]: a region with many objects, in which any number of detections is correct


@dataclass(frozen=True)
class ArrayReader:
    """Reads image i from one uint8 array [N H W C] in memory."""

    array: np.ndarray

    def __call__(self, index: int) -> np.ndarray:
        return self.array[index]


@dataclass(frozen=True)
class Split:
    """One part of a data set, such as "train".

    names:      name of image i in messages and reports: its path below the root, or "train/17" inside an array.
    labels:     int64 [N] class indices, or uint8 [N K] with ones at every class of an image (multi-label); zeros where
                `annotation` is given.
    read:       index -> uint8 [H W C]; raises only `BadImage`; picklable.
    annotation: index -> a mask uint8 [H W] of class indices and `IGNORE`, `Boxes`, or captions: a tuple of at least one
                text, each a line; None: images have labels only. Raises only `BadImage`; picklable.
    places:     int64 [N], in the order of which a disk reads without seeking, where that is known.
    """

    names: Sequence[str]
    labels: np.ndarray
    read: Callable[[int], np.ndarray]
    annotation: Callable[[int], Any] | None = None
    places: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def array(self) -> np.ndarray | None:
        """All images at once, [N H W C], where they are in memory already and of one size."""
        return self.read.array if isinstance(self.read, ArrayReader) else None

    def shared(self) -> "Split":
        """The same for processes that are started anew: images in memory lie in a file, which these map instead of a
        copy of all of them."""
        return self if self.array is None else replace(self, read=ArrayReader(share_array(self.array)))

    def annotation_bytes(self, index: int) -> bytes:
        """A mask, boxes or captions as bytes, to detect changes; empty where they cannot be read (reported
        elsewhere)."""
        try:
            annotation = self.annotation(index) if self.annotation else ()
        except BadImage:
            return b""
        return b"".join(
            part.encode() + b"\n" if isinstance(part, str) else np.ascontiguousarray(part).tobytes()
            for part in (annotation if isinstance(annotation, tuple) else (annotation,))
        )

    def select(self, indices: np.ndarray) -> "Split":
        """The same images, only those at `indices`, in that order."""
        array = self.array
        read = ArrayReader(array[indices]) if array is not None else SubsetReader(self.read, np.asarray(indices))
        annotation = None if self.annotation is None else SubsetReader(self.annotation, np.asarray(indices))
        places = None if self.places is None else self.places[indices]
        return Split(select_names(self.names, indices), self.labels[indices], read, annotation, places)


@dataclass(frozen=True)
class SubsetReader:
    """Reads image i of a subset, or its annotation, from a larger reader."""

    read: Callable[[int], Any]
    indices: np.ndarray

    def __call__(self, index: int) -> Any:
        read, at = self.locate(index)
        return read(at)

    def locate(self, index: int) -> tuple[Callable[[int], Any], int]:
        """The reader that is asked for image i, and the index there."""
        return self.read, int(self.indices[index])


@dataclass(frozen=True)
class JoinedReader:
    """Reads image i of several readers, one after the other. starts: [S + 1]."""

    readers: tuple[Callable[[int], Any], ...]
    starts: np.ndarray

    def __call__(self, index: int) -> Any:
        read, at = self.locate(index)
        return read(at)

    def locate(self, index: int) -> tuple[Callable[[int], Any], int]:
        """The reader that is asked for image i, and the index there."""
        which = int(np.searchsorted(self.starts, index, side="right")) - 1
        return self.readers[which], index - int(self.starts[which])


def find_reader(read: Callable[[int], Any], index: int) -> tuple[Callable[[int], Any], int]:
    """The reader that reads image `index` itself, behind all subsets and joined parts, and the index there."""
    while isinstance(read, SubsetReader | JoinedReader):
        read, index = read.locate(index)
    return read, index


def map_readers(
    read: Callable[[int], Any], change: Callable[[Callable[[int], Any]], Callable[[int], Any]]
) -> Callable[[int], Any]:
    """The reader with `change` of those that read images themselves, behind all subsets and joined parts."""
    if isinstance(read, SubsetReader):
        return replace(read, read=map_readers(read.read, change))
    if isinstance(read, JoinedReader):
        return replace(read, readers=tuple(map_readers(one, change) for one in read.readers))
    return change(read)


def join_splits(splits: Sequence[Split]) -> Split:
    """All images of several splits of one data set, in order."""
    if len(splits) == 1:
        return splits[0]
    starts = np.concatenate([[0], np.cumsum([len(split) for split in splits])])
    annotations = tuple(split.annotation for split in splits if split.annotation is not None)
    places = [split.places for split in splits if split.places is not None]
    return Split(
        [name for split in splits for name in split.names],
        np.concatenate([split.labels for split in splits]),
        JoinedReader(tuple(split.read for split in splits), starts),
        JoinedReader(annotations, starts) if len(annotations) == len(splits) else None,
        places=np.concatenate(places) if len(places) == len(splits) else None,
    )


@dataclass(frozen=True)
class Dataset:
    """Splits by name ("train", "val", "test", as far as the data has them), and the names of the classes."""

    layout: str  # the module in `datasets/` that built it
    classes: tuple[str, ...]
    splits: dict[str, Split]
    channels: int
    entries: Sequence[Entry] = ()
    notes: tuple[str, ...] = ()  # for the user: how a split was made, what was left out, the licence
    kind: AnnotationKind = "classes"  # the annotation: classes of an image, a class of every pixel, boxes, captions
    origin: str = ""  # the layout that the images were packed from, of shards
    visited: Visited | None = None  # what was walked to find the images, where nothing but names decided on them

    @property
    def is_annotated(self) -> bool:
        """Whether its images have masks, boxes or captions beside a label."""
        return any(split.annotation is not None for split in self.splits.values())

    @property
    def multi_label(self) -> bool:
        return next(iter(self.splits.values())).labels.ndim == 2
