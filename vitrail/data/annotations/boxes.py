"""Boxes of objects, kept compactly for all pictures at once, and what is done to them before a layout hands them on."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vitrail.data.dataset import Boxes
from vitrail.data.decode import header
from vitrail.errors import BadImage, many

ROUNDING = 2.0  # pixels by which a box may stick out of its picture and still be meant to end there


@dataclass(frozen=True)
class BoxReader:
    """Picture i has the boxes from starts[i] to starts[i + 1] of `every`. starts: int64 [N + 1]."""

    every: Boxes
    starts: np.ndarray

    def __call__(self, index: int) -> Boxes:
        own = slice(int(self.starts[index]), int(self.starts[index + 1]))
        return Boxes(*(values[own].copy() for values in self.every))


def packed(found: Sequence[Boxes]) -> BoxReader:
    """The boxes of picture 0, 1, ... as one reader."""
    counts = [len(own.labels) for own in found]
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    if not sum(counts):
        return BoxReader(boxes_of([], [], []), starts)
    return BoxReader(Boxes(*(np.concatenate(values) for values in zip(*found, strict=True))), starts)


def boxes_of(boxes: Sequence[Sequence[float]], labels: Sequence[int], crowd: Sequence[bool]) -> Boxes:
    """Lists as arrays, also where there is nothing in them."""
    return Boxes(np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64), np.array(crowd, bool))


def area(boxes: np.ndarray) -> np.ndarray:
    """Of boxes [n 4], [n]; 0 where an edge lies beyond its opposite."""
    return (boxes[:, 2:] - boxes[:, :2]).clip(0).prod(1)


def cut(truth: Boxes, place: Sequence[int] | np.ndarray, share: float) -> Boxes:
    """The boxes of which at least a share lies in a place (left, top, right, bottom), cut at its border and in its own pixels."""
    edges = np.asarray(place)
    moved = truth.boxes - np.tile(edges[:2], 2).astype(np.float32)
    inside = moved.clip(0, np.tile(edges[2:] - edges[:2], 2).astype(np.float32))
    seen = area(inside) >= np.maximum(share * area(moved), 1e-6)
    return Boxes(inside[seen], truth.labels[seen], truth.crowd[seen])


@dataclass
class Tidy:
    """Brings the boxes of one picture after another in order, and counts what was done, for the notes of a data set."""

    clipped: int = 0
    empty: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def __call__(self, name: str, found: Boxes, size: tuple[int, int] | None) -> Boxes:
        """Boxes that stick out by no more than rounding are cut, and empty ones go. size: (height, width), where it is known.

        One that lies further out is left as it is: it tells of a mistake, which the survey of the truths names.
        """
        boxes = found.boxes
        if size is not None and len(boxes):
            low, high = np.zeros(4, np.float32), np.array([size[1], size[0]] * 2, np.float32)
            far = np.maximum(low - boxes, boxes - high).max(1)
            near = (far > 0) & (far <= ROUNDING)
            boxes = np.where(near[:, None], np.clip(boxes, low, high), boxes)
            self.clipped += int(near.sum())
            self.outside += [name] * int((far > ROUNDING).sum())
        full = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        self.empty += [name] * int((~full).sum())
        return Boxes(boxes[full], found.labels[full], found.crowd[full])

    def notes(self) -> list[str]:
        """What was done, in words."""
        said = []
        if self.clipped:
            count = many(self.clipped, "box", "boxes")
            said.append(f"cut at the border of the picture, of which they stuck out by up to {ROUNDING:g} pixels: {count}")
        if self.empty:
            count = many(len(self.empty), "box", "boxes")
            said.append(f"left out, as they have no height or no width: {count}, the first in {self.empty[0]}")
        if self.outside:
            count = many(len(self.outside), "box", "boxes")
            said.append(f"sticking out of their picture by more than {ROUNDING:g} pixels: {count}, the first in {self.outside[0]}")
        return said


def size_of(path: Path) -> tuple[int, int] | None:
    """Height and width of a picture by its header; None where it cannot be read, which is told where pictures are read."""
    try:
        return header(path).size
    except BadImage:
        return None
