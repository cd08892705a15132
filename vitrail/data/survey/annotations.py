"""Surveys all masks, boxes or captions of a data set: frequencies of the classes, and annotation errors."""

import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vitrail.data.dataset import IGNORE, AnnotationKind, ArrayReader, Boxes, Dataset, Split, find_reader
from vitrail.data.files import EncodedReader
from vitrail.data.survey.captions import LONG, CaptionFacts, CaptionSurvey, inspect_caption, summarise_captions
from vitrail.data.survey.images import ImageReference, UnreadableImage
from vitrail.data.survey.sample import choose_sample
from vitrail.errors import BadImage

BLOCK = 2048  # images that the threads get at a time
TINY = 4.0  # pixels of a box's shorter side
SLACK = 0.01  # pixels by which a box may exceed its image: rounding of floats
FAULTS = {  # errors of a readable annotation, and remedies
    "outside": (
        "outside their image",
        "check the size and orientation of the image; correct or remove them",
    ),
    "empty": ("without height or width", "correct or remove them"),
    "unknown": ("with a label or value that is no class", "correct them, or add the class"),
    "repeated": ("twice in one image with the same label", "remove the copies, they count double"),
    "tiny": (f"a side under {TINY:g} pixels", "train on larger images, or on tiles: --data.tile 512"),
    "long": (f"of more than {LONG} characters", "a text tower reads the beginning alone: put what matters first"),
}


class Extent(NamedTuple):
    """Sides of boxes, the root of height times width in pixels: smallest, median, largest."""

    low: float
    middle: float
    high: float


@dataclass(frozen=True)
class AnnotationSurvey:
    """Results of the survey of all masks, boxes or captions."""

    kind: AnnotationKind
    counts: dict[str, tuple[int, ...]]  # pixels or boxes of each class, by split
    images: dict[str, tuple[int, ...]]  # images with each class, by split
    ignored: dict[str, int]  # ignored pixels, or boxes around crowds, by split
    bare: dict[str, int]  # images without any box, or of which every pixel is ignored, by split
    broken: tuple[UnreadableImage, ...]  # unreadable, or not of the size of their image
    faults: dict[str, tuple[ImageReference, ...]]  # by key of `FAULTS`: one entry a box or a mask
    extent: Extent | None  # of boxes
    captions: CaptionSurvey | None = None  # where captions are the annotation

    @property
    def of_pixels(self) -> bool:
        """Whether pixels are counted, as of masks, not boxes."""
        return self.kind == "masks"


class _AnnotationFacts(NamedTuple):
    """Facts on the annotation of one image."""

    counts: np.ndarray
    ignored: int = 0
    faults: tuple[tuple[str, int], ...] = ()
    sides: np.ndarray | None = None
    reason: str = ""
    captions: tuple[CaptionFacts, ...] = ()


def survey_annotations(
    dataset: Dataset, progress: Callable[[int, int], None] | None = None, threads: int = 0, whole: bool = True
) -> AnnotationSurvey:
    """Reads the annotation of every image of every split, or of those of the sample alone. progress: called with
    (images done, total). threads: 0 means one a core, at most 16. An unreadable annotation is recorded, never an error.
    """
    facts: dict[str, list[_AnnotationFacts]] = {name: [] for name in dataset.splits}
    every = {name: np.arange(len(split)) for name, split in dataset.splits.items()}
    chosen = every if whole else choose_sample(dataset)
    total, count = sum(map(len, chosen.values())), 0
    with ThreadPoolExecutor(threads or min(16, os.cpu_count() or 1)) as pool:
        for name, split in dataset.splits.items():
            for start in range(0, len(chosen[name]), BLOCK):
                block = chosen[name][start : start + BLOCK].tolist()
                facts[name] += pool.map(lambda i, s=split: _inspect(s, i, len(dataset.classes)), block)
                count += len(block)
                if progress:
                    progress(count, total)
    return _summary(dataset, chosen, facts)


def _inspect(split: Split, index: int, classes: int) -> _AnnotationFacts:
    nothing = np.zeros(classes, np.int64)
    assert split.annotation is not None
    try:
        annotation = split.annotation(index)
    except BadImage as error:
        return _AnnotationFacts(nothing, reason=error.what)
    if isinstance(annotation, tuple) and not isinstance(annotation, Boxes):
        captions = tuple(map(inspect_caption, annotation))
        long = sum(one.length > LONG for one in captions)
        return _AnnotationFacts(nothing, faults=(("long", long),) if long else (), captions=captions)
    size = size_of(split, index)
    if size is None:  # an unreadable image is in the survey of the images
        return _AnnotationFacts(nothing)
    if isinstance(annotation, Boxes):
        return _inspect_boxes(annotation, size, classes)
    if annotation.shape != size:
        mask_size = f"{annotation.shape[0]} x {annotation.shape[1]} (height x width)"
        return _AnnotationFacts(nothing, reason=f"the mask is {mask_size}, its image {size[0]} x {size[1]}")
    counts = np.bincount(annotation.ravel(), minlength=256)
    unknown = int(counts[classes:IGNORE].sum())
    return _AnnotationFacts(counts[:classes], int(counts[IGNORE]), (("unknown", 1),) if unknown else ())


def _inspect_boxes(annotation: Boxes, size: tuple[int, int], classes: int) -> _AnnotationFacts:
    boxes = annotation.boxes
    sides = boxes[:, 2:] - boxes[:, :2]
    full = (sides > 0).all(1)  # a NaN is not
    beyond = np.maximum(-boxes, boxes - np.tile(size[::-1], 2)).max(1, initial=0) > SLACK
    is_class = (annotation.labels >= 0) & (annotation.labels < classes)
    rows = Counter(zip(map(tuple, boxes.tolist()), annotation.labels.tolist(), strict=True))
    errors = {
        "outside": int(beyond.sum()),
        "empty": int((~full).sum()),
        "unknown": int((~is_class).sum()),
        "repeated": sum(n - 1 for n in rows.values()),
        "tiny": int((full & (sides.min(1, initial=np.inf) < TINY)).sum()),
    }
    counts = np.bincount(annotation.labels[is_class], minlength=classes)
    faults = tuple((name, n) for name, n in errors.items() if n)
    return _AnnotationFacts(counts, int(annotation.crowd.sum()), faults, np.sqrt(sides[full].prod(1)))


def size_of(split: Split, index: int) -> tuple[int, int] | None:
    """Height and width of an image, by its header if it is a file; None where it cannot be read."""
    read, at = find_reader(split.read, index)
    try:
        if isinstance(read, EncodedReader):
            return read.header(at).size
        shape = read.array.shape[1:] if isinstance(read, ArrayReader) else read(at).shape
        return shape[0], shape[1]
    except BadImage:
        return None


def _summary(
    dataset: Dataset, chosen: dict[str, np.ndarray], facts: dict[str, list[_AnnotationFacts]]
) -> AnnotationSurvey:
    every = [
        (ImageReference(part, i, str(dataset.splits[part].names[i])), fact)
        for part, own in facts.items()
        for i, fact in zip(chosen[part].tolist(), own, strict=True)
    ]
    faults = {
        name: tuple(w for w, fact in every for kind, n in fact.faults if kind == name for _ in range(n))
        for name in FAULTS
    }
    box_sides = [fact.sides for _, fact in every if fact.sides is not None and len(fact.sides)]
    extent = None
    if box_sides:
        joined = np.concatenate(box_sides)
        extent = Extent(float(joined.min()), float(np.median(joined)), float(joined.max()))
    captions = None
    if dataset.kind == "captions":
        captions = summarise_captions(dataset, [(where.split, where.number, fact.captions) for where, fact in every])

    def summed(part: str, of: Callable[[_AnnotationFacts], np.ndarray]) -> tuple[int, ...]:
        return tuple(int(n) for n in sum((of(fact) for fact in facts[part]), np.zeros(len(dataset.classes), np.int64)))

    return AnnotationSurvey(
        kind=dataset.kind,
        counts={part: summed(part, lambda fact: fact.counts) for part in facts},
        images={part: summed(part, lambda fact: fact.counts > 0) for part in facts},
        ignored={part: sum(fact.ignored for fact in own) for part, own in facts.items()},
        bare={part: sum(not fact.counts.any() and not fact.reason for fact in own) for part, own in facts.items()},
        broken=tuple(UnreadableImage(*where, fact.reason) for where, fact in every if fact.reason),
        faults={name: where for name, where in faults.items() if where},
        extent=extent,
        captions=captions,
    )
