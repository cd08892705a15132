"""Boxes of objects, kept compactly for all images at once, and what is done to them before a layout hands them on."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vitrail.data.dataset import Boxes
from vitrail.data.decode import read_header
from vitrail.errors import BadImage, many

ROUNDING = 2.0  # pixels by which a box may stick out of its image and still be meant to end there


@dataclass(frozen=True)
class BoxReader:
    """Image i has the boxes from starts[i] to starts[i + 1] of `all_boxes`. starts: int64 [N + 1]."""

    all_boxes: Boxes
    starts: np.ndarray

    def __call__(self, index: int) -> Boxes:
        own = slice(int(self.starts[index]), int(self.starts[index + 1]))
        return Boxes(*(values[own].copy() for values in self.all_boxes))


def pack_boxes(boxes: Sequence[Boxes]) -> BoxReader:
    """The boxes of image 0, 1, ... as one reader."""
    counts = [len(own.labels) for own in boxes]
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    if not sum(counts):
        return BoxReader(as_boxes([], [], []), starts)
    return BoxReader(Boxes(*(np.concatenate(values) for values in zip(*boxes, strict=True))), starts)


def as_boxes(boxes: Sequence[Sequence[float]], labels: Sequence[int], crowd: Sequence[bool]) -> Boxes:
    """Lists as arrays, also where there is nothing in them."""
    return Boxes(np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64), np.array(crowd, bool))


def box_area(boxes: np.ndarray) -> np.ndarray:
    """Of boxes [n 4], [n]; 0 where an edge lies beyond its opposite."""
    return (boxes[:, 2:] - boxes[:, :2]).clip(0).prod(1)


def crop_boxes(boxes: Boxes, place: Sequence[int] | np.ndarray, share: float) -> Boxes:
    """The boxes of which at least a share lies in a place (left, top, right, bottom), cut at its border and in its own pixels."""
    edges = np.asarray(place)
    moved = boxes.boxes - np.tile(edges[:2], 2).astype(np.float32)
    inside = moved.clip(0, np.tile(edges[2:] - edges[:2], 2).astype(np.float32))
    seen = box_area(inside) >= np.maximum(share * box_area(moved), 1e-6)
    return Boxes(inside[seen], boxes.labels[seen], boxes.crowd[seen])


@dataclass
class BoxCleaner:
    """Brings the boxes of one image after another in order, and counts what was done, for the notes of a data set."""

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
            said.append(
                f"cut at the border of the image, of which they stuck out by up to {ROUNDING:g} pixels: {count}"
            )
        if self.empty:
            count = many(len(self.empty), "box", "boxes")
            said.append(f"left out, as they have no height or no width: {count}, the first in {self.empty[0]}")
        if self.outside:
            count = many(len(self.outside), "box", "boxes")
            said.append(
                f"sticking out of their image by more than {ROUNDING:g} pixels: {count}, the first in {self.outside[0]}"
            )
        return said


def read_size(path: Path) -> tuple[int, int] | None:
    """Height and width of an image by its header; None where it cannot be read, which is told where images are read."""
    try:
        return read_header(path).size
    except BadImage:
        return None
