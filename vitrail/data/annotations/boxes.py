"""Bounding boxes: stored compactly for all images at once, and cleaned before a layout returns them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vitrail.data.dataset import Boxes, Split
from vitrail.data.decode import read_header
from vitrail.errors import BadImage, many

SAMPLED = 1000  # images, and objects of one, that are measured
ROUNDING = 2.0  # pixels by which a box may exceed its image as rounding error


@dataclass(frozen=True)
class BoxReader:
    """Reads boxes starts[i] to starts[i + 1] of `all_boxes` for image i. starts: int64 [N + 1]."""

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
    """Lists as arrays, empty ones too."""
    return Boxes(np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64), np.array(crowd, bool))


def box_area(boxes: np.ndarray) -> np.ndarray:
    """Areas [n] of boxes [n 4]; 0 where opposite edges are swapped."""
    return (boxes[:, 2:] - boxes[:, :2]).clip(0).prod(1)


def crop_boxes(boxes: Boxes, region: Sequence[int] | np.ndarray, share: float) -> Boxes:
    """Boxes with at least `share` of their area in `region` (left, top, right, bottom), clipped, in pixels of it."""
    edges = np.asarray(region)
    moved = boxes.boxes - np.tile(edges[:2], 2).astype(np.float32)
    inside = moved.clip(0, np.tile(edges[2:] - edges[:2], 2).astype(np.float32))
    visible = box_area(inside) >= np.maximum(share * box_area(moved), 1e-6)
    return Boxes(inside[visible], boxes.labels[visible], boxes.crowd[visible])


class ObjectFacts(NamedTuple):
    """What is known of the objects of a split; crowds are none."""

    total: int = 0  # of a large split an estimate
    side: float = 0.0  # the median root of their areas, in pixels
    overlap: float | None = None  # 99 of 100 overlap less (IoU) with any other of their class; None without objects


def measure_objects(split: Split) -> ObjectFacts:
    """The facts about the boxes of a split, if it has any; of a large one they are measured on about `SAMPLED` images,
    so that the start of a run does not grow with the data."""
    if split.annotation is None or not len(split) or not has_boxes(split.annotation):
        return ObjectFacts()
    each = [split.annotation(i) for i in range(0, len(split), -(-len(split) // SAMPLED))]
    sides = np.sqrt(np.concatenate([box_area(own.boxes[~own.crowd]) for own in each]))
    if not len(sides):
        return ObjectFacts()
    overlaps = np.concatenate([largest_overlaps(own) for own in each])
    total = round(len(sides) * len(split) / len(each))
    return ObjectFacts(total, float(np.median(sides)), float(np.quantile(overlaps, 0.99)))


def has_boxes(annotation: Callable[[int], Any]) -> bool:
    """Whether the annotations of a split are boxes, which are in memory: what cannot be read is something else."""
    try:
        return isinstance(annotation(0), Boxes)
    except BadImage:
        return False


def largest_overlaps(own: Boxes) -> np.ndarray:
    """The largest intersection over union of each object of an image with another of its class: [n]; of the first
    `SAMPLED` alone where there are more."""
    boxes, labels = (values[~own.crowd][:SAMPLED] for values in (own.boxes, own.labels))
    sides = np.minimum(boxes[:, None, 2:], boxes[:, 2:]) - np.maximum(boxes[:, None, :2], boxes[:, :2])
    shared = sides.clip(0).prod(-1) * (labels[:, None] == labels)
    area = box_area(boxes)
    ratio = shared / np.maximum(area[:, None] + area - shared, 1e-9)
    np.fill_diagonal(ratio, 0)
    return ratio.max(1, initial=0.0)


@dataclass
class BoxCleaner:
    """Cleans the boxes of image after image, and counts the corrections for the notes of a data set."""

    clipped: int = 0
    empty: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def __call__(self, name: str, annotation: Boxes, size: tuple[int, int] | None) -> Boxes:
        """Clips boxes that exceed the image by rounding errors, and removes empty ones. size: (height, width) if known.

        A box further outside is left as it is: it is an annotation error, which the survey of the annotations reports.
        """
        boxes = annotation.boxes
        if size is not None and len(boxes):
            low, high = np.zeros(4, np.float32), np.array([size[1], size[0]] * 2, np.float32)
            far = np.maximum(low - boxes, boxes - high).max(1)
            near = (far > 0) & (far <= ROUNDING)
            boxes = np.where(near[:, None], np.clip(boxes, low, high), boxes)
            self.clipped += int(near.sum())
            self.outside += [name] * int((far > ROUNDING).sum())
        full = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        self.empty += [name] * int((~full).sum())
        return Boxes(boxes[full], annotation.labels[full], annotation.crowd[full])

    def notes(self) -> list[str]:
        """Notes for the user on the corrections."""
        messages = []
        if self.clipped:
            count = many(self.clipped, "box", "boxes")
            messages.append(f"clipped to the image, which they exceeded by at most {ROUNDING:g} pixels: {count}")
        if self.empty:
            count = many(len(self.empty), "box", "boxes")
            messages.append(f"left out, as their height or width is zero: {count}, the first in {self.empty[0]}")
        if self.outside:
            count = many(len(self.outside), "box", "boxes")
            messages.append(
                f"more than {ROUNDING:g} pixels outside their image: {count}, the first in {self.outside[0]}"
            )
        return messages


def read_size(path: Path) -> tuple[int, int] | None:
    """Height and width of an image by its header; None where it cannot be read (reported where images are read)."""
    try:
        return read_header(path).size
    except BadImage:
        return None
