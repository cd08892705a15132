"""Reads every mask or every box of a data set once and tells what is there: how much of each class, and what cannot be right."""

import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vitrail.data.dataset import IGNORE, AnnotationKind, ArrayReader, Boxes, Dataset, Split, SubsetReader
from vitrail.data.decode import read_header
from vitrail.data.files import FileReader
from vitrail.data.survey.images import ImageReference, UnreadableImage
from vitrail.errors import BadImage

BLOCK = 2048  # images handed to the threads at a time
TINY = 4.0  # pixels of a box's shorter side
SLACK = 0.01  # pixels by which a box may stick out: rounding of floats
FAULTS = {  # what can be wrong with a truth that can be read, and what to do
    "outside": (
        "sticking out of their image",
        "do they belong to one of another size or orientation? correct or remove them",
    ),
    "empty": ("without height or width", "correct or remove them"),
    "unknown": ("with a label or value that is no class", "correct them, or add the class"),
    "repeated": ("twice in one image with the same label", "remove the copies, they count double"),
    "tiny": (f"a side under {TINY:g} pixels", "train on larger images, or on tiles: --data.tile 512"),
}


class Extent(NamedTuple):
    """Sides of boxes, the root of height times width in pixels: smallest, median, largest."""

    low: float
    middle: float
    high: float


@dataclass(frozen=True)
class AnnotationSurvey:
    """What a look at every mask, or at the boxes of every image, found."""

    kind: AnnotationKind
    counts: dict[str, tuple[int, ...]]  # pixels or boxes of each class, by split
    images: dict[str, tuple[int, ...]]  # images in which each class is, by split
    ignored: dict[str, int]  # ignored pixels, or boxes around crowds, by split
    bare: dict[str, int]  # images without any box, or of which every pixel is ignored, by split
    broken: tuple[UnreadableImage, ...]  # cannot be read, or do not fit their image
    faults: dict[str, tuple[ImageReference, ...]]  # by the names in `FAULTS`: one entry a box or a mask
    extent: Extent | None  # of boxes


class _AnnotationFacts(NamedTuple):
    """What the truth of one image told."""

    counts: np.ndarray
    ignored: int = 0
    faults: tuple[tuple[str, int], ...] = ()
    sides: np.ndarray | None = None
    reason: str = ""


def survey_annotations(
    dataset: Dataset, progress: Callable[[int, int], None] | None = None, threads: int = 0
) -> AnnotationSurvey:
    """Reads the truth of every image of every split. progress: called with (images looked at, of how many). threads: 0 takes one a
    core, at most 16. A truth that cannot be read is recorded, never an error.
    """
    looks: dict[str, list[_AnnotationFacts]] = {name: [] for name in dataset.splits}
    total, done = sum(map(len, dataset.splits.values())), 0
    with ThreadPoolExecutor(threads or min(16, os.cpu_count() or 1)) as pool:
        for name, split in dataset.splits.items():
            for start in range(0, len(split), BLOCK):
                block = range(start, min(start + BLOCK, len(split)))
                looks[name] += pool.map(lambda i, s=split: _inspect(s, i, len(dataset.classes)), block)
                done += len(block)
                if progress:
                    progress(done, total)
    return _summary(dataset, looks)


def _inspect(split: Split, index: int, classes: int) -> _AnnotationFacts:
    nothing = np.zeros(classes, np.int64)
    assert split.annotation is not None
    try:
        annotation, size = split.annotation(index), size_of(split, index)
    except BadImage as error:
        return _AnnotationFacts(nothing, reason=error.what)
    if size is None:  # the image cannot be read, which the survey of the images tells
        return _AnnotationFacts(nothing)
    if isinstance(annotation, Boxes):
        return _inspect_boxes(annotation, size, classes)
    if annotation.shape != size:
        what = f"the mask is {annotation.shape[0]} x {annotation.shape[1]} (height x width), its image {size[0]} x {size[1]}"
        return _AnnotationFacts(nothing, reason=what)
    counts = np.bincount(annotation.ravel(), minlength=256)
    strange = int(counts[classes:IGNORE].sum())
    return _AnnotationFacts(counts[:classes], int(counts[IGNORE]), (("unknown", 1),) if strange else ())


def _inspect_boxes(annotation: Boxes, size: tuple[int, int], classes: int) -> _AnnotationFacts:
    boxes = annotation.boxes
    sides = boxes[:, 2:] - boxes[:, :2]
    full = (sides > 0).all(1)  # a NaN is not
    beyond = np.maximum(-boxes, boxes - np.tile(size[::-1], 2)).max(1, initial=0) > SLACK
    known = (annotation.labels >= 0) & (annotation.labels < classes)
    rows = Counter(zip(map(tuple, boxes.tolist()), annotation.labels.tolist(), strict=True))
    found = {
        "outside": int(beyond.sum()),
        "empty": int((~full).sum()),
        "unknown": int((~known).sum()),
        "repeated": sum(n - 1 for n in rows.values()),
        "tiny": int((full & (sides.min(1, initial=np.inf) < TINY)).sum()),
    }
    counts = np.bincount(annotation.labels[known], minlength=classes)
    faults = tuple((name, n) for name, n in found.items() if n)
    return _AnnotationFacts(counts, int(annotation.crowd.sum()), faults, np.sqrt(sides[full].prod(1)))


def size_of(split: Split, index: int) -> tuple[int, int] | None:
    """Height and width of an image, by its header where it is a file; None where it cannot be read."""
    read, at = split.read, index
    while isinstance(read, SubsetReader):
        at, read = int(read.indices[at]), read.read
    try:
        if isinstance(read, FileReader):
            return read_header(read.root / read.names[at]).size
        shape = read.array.shape[1:] if isinstance(read, ArrayReader) else read(at).shape
        return shape[0], shape[1]
    except BadImage:
        return None


def _summary(dataset: Dataset, looks: dict[str, list[_AnnotationFacts]]) -> AnnotationSurvey:
    every = [
        (ImageReference(part, i, str(dataset.splits[part].names[i])), found)
        for part, own in looks.items()
        for i, found in enumerate(own)
    ]
    faults = {
        name: tuple(w for w, found in every for kind, n in found.faults if kind == name for _ in range(n))
        for name in FAULTS
    }
    sides = [found.sides for _, found in every if found.sides is not None and len(found.sides)]
    extent = None
    if sides:
        joined = np.concatenate(sides)
        extent = Extent(float(joined.min()), float(np.median(joined)), float(joined.max()))

    def summed(part: str, of: Callable[[_AnnotationFacts], np.ndarray]) -> tuple[int, ...]:
        return tuple(
            int(n) for n in sum((of(found) for found in looks[part]), np.zeros(len(dataset.classes), np.int64))
        )

    return AnnotationSurvey(
        kind=dataset.kind,
        counts={part: summed(part, lambda found: found.counts) for part in looks},
        images={part: summed(part, lambda found: found.counts > 0) for part in looks},
        ignored={part: sum(found.ignored for found in own) for part, own in looks.items()},
        bare={part: sum(not found.counts.any() and not found.reason for found in own) for part, own in looks.items()},
        broken=tuple(UnreadableImage(*where, found.reason) for where, found in every if found.reason),
        faults={name: where for name, where in faults.items() if where},
        extent=extent,
    )
