"""Finds out what the values of masks stand for: by a table of classes, or by the values alone. Shared by layouts."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vitrail.data.annotations.masks import (
    COLOUR,
    MAX_CLASSES,
    UNKNOWN,
    MaskClasses,
    number_classes,
    read_values,
    to_classes,
)
from vitrail.data.dataset import IGNORE
from vitrail.data.subset import evenly_spaced
from vitrail.errors import BadImage, DataError

MAX_SAMPLE = 4096  # masks that are read to list the values
FIT_SAMPLE = 64  # masks that decide how a table applies
THRESHOLD = 128  # of the second class, where two values have soft edges
DARK, LIGHT = 48, 208  # grey values below and from here on are near 0 and near 255
MAX_BETWEEN = 0.3  # fraction of the pixels between the two values, if these are edges
EDGES = 0.01  # the same, where the values are as evenly spaced as those of classes may be
SMALL = 16  # values below may be class numbers
FEW_BETWEEN = 3  # different values between 0 and 255 that may be classes
TWO_NAMES = ("background", "foreground")


class MaskValues(NamedTuple):
    """The values of a mask. counts: int64 [256] of grey pixels, None for others; distinct: its values, in order."""

    is_colour: bool
    is_jpeg: bool
    counts: np.ndarray | None
    distinct: list[int]


def fits(masks: Sequence[Path], classes: MaskClasses, coloured: bool) -> bool:
    """Whether all `masks` can be read with these classes."""
    try:
        for mask in masks:
            to_classes(mask, read_values(mask, coloured=coloured), classes)
        return True
    except BadImage:
        return False


def fit_classes(classes: MaskClasses, masks: Sequence[Path], shift: int) -> tuple[MaskClasses, list[str]]:
    """The classes of a table as the masks use them, and notes: grey values as line numbers, or 0 and 255 for two
    names."""
    if classes.colours is not None:
        sample = [masks[i] for i in evenly_spaced(len(masks), FIT_SAMPLE)]
        numbered = number_classes(classes.names, shift)
        if not fits(sample, classes, True) and fits(sample, numbered, False):
            return numbered, []
    elif len(classes.names) == 2 and not shift:
        values, _ = sample_values(masks)
        if two := split_in_two(values):
            return two[0]._replace(names=classes.names), two[1]
    return classes, []


def threshold_classes(threshold: int) -> MaskClasses:
    """Two classes: grey values below and from a threshold on."""
    codes = (np.arange(256) >= threshold).astype(np.int16)
    return MaskClasses(TWO_NAMES, codes, two_valued=True)


def is_two_valued(counts: np.ndarray) -> bool:
    """Whether grey values are almost only 0 and 255, with soft edges or the traces of a JPEG between them.

    counts: pixels of each value, [256]. Class numbers with 255 for what is ignored have nothing shortly below 255, and
    few values between otherwise are edges where they are no small numbers and 255 is more frequent by far.
    """
    total, between = int(counts.sum()), counts[1:IGNORE]
    middle, levels = int(counts[DARK:LIGHT].sum()), np.flatnonzero(counts).tolist()
    if int((between > 0).sum()) > FEW_BETWEEN or not middle:
        has_both = counts[:DARK].any() and counts[LIGHT:IGNORE].any()
        return bool(has_both and middle <= MAX_BETWEEN * total)
    are_rare = 2 * int(between.sum()) < counts[IGNORE] and not counts[1:SMALL].any() and counts[0]
    return bool(are_rare and (not are_grey_levels(levels) or between.sum() <= EDGES * total))


def split_in_two(values: Sequence[MaskValues]) -> tuple[MaskClasses, list[str]] | None:
    """The classes of masks of 0 and 255 alone, or almost alone, and notes; None for others."""
    grey = [v.counts for v in values if v.counts is not None]
    if not values or len(grey) < len(values):
        return None
    counts = np.sum(grey, axis=0)
    present = np.flatnonzero(counts).tolist()
    jpegs = sum(v.is_jpeg for v in values)
    if present == [0, IGNORE] and not jpegs:
        codes = number_classes(TWO_NAMES).codes
        codes[1], codes[IGNORE] = UNKNOWN, 1
        return MaskClasses(TWO_NAMES, codes), ["the values of the masks are 0 and 255: 255 is the second class"]
    if not is_two_valued(counts) and present != [0, IGNORE]:
        return None
    why = f"{jpegs:,} of {len(values):,} are JPEGs" if jpegs else f"{len(present):,} values"
    note = f"the values of the masks are 0 and 255 with soft edges ({why}): from {THRESHOLD} on is the second class"
    return threshold_classes(THRESHOLD), [f"{note}; --data.threshold sets another value"]


def are_grey_levels(values: Sequence[int]) -> bool:
    """Whether values are evenly spaced from 0 to 255, as classes that were drawn to be seen."""
    steps = len(values) - 1
    return steps > 1 and all(abs(v - IGNORE * i / steps) <= 1 for i, v in enumerate(values))


def detect_classes(paths: Sequence[Path], shift: int) -> tuple[MaskClasses, list[str]]:
    """The classes by the values of the masks, and notes: 0 and 255 alone are two classes, evenly spaced grey levels are
    classes, otherwise 255 is ignored.

    Errors: `DataError` where the values are no classes. Unreadable masks are reported where they are read.
    """
    values, count = sample_values(paths)
    notes = [f"classes are the values in {count:,} masks; classes.txt, one name a line, would name them"]
    if not shift and (two := split_in_two(values)):
        return two[0], [*notes, *two[1]]
    values = [v for v in values if not v.is_jpeg]
    if not values:
        read_values(paths[0])  # raises the error
    colour = any(v.is_colour for v in values)
    present = sorted({v * 0x010101 if colour and not own.is_colour else v for own in values for v in own.distinct})
    if len(present) - (IGNORE in present) > MAX_CLASSES:
        raise DataError(
            f"{paths[0].parent}: the masks have {len(present):,} different values", "mask values are class numbers"
        )
    if colour:
        colours = {v: i for i, v in enumerate(present)}
        return MaskClasses(tuple(f"#{v:06x}" for v in present), number_classes(()).codes, colours), notes
    levels = not shift and are_grey_levels(present)
    numbers = [v for v in present if (levels or v != IGNORE) and not (shift and v == 0)]
    if numbers and not 0 <= numbers[0] <= numbers[-1] <= IGNORE:
        invalid = numbers[-1] if numbers[0] >= 0 else numbers[0]
        raise DataError(f"{paths[0].parent}: the masks have the value {invalid}", "values are 0 to 255")
    if levels:
        notes.append(f"the values of the masks are {len(numbers)} even steps from 0 to 255: 255 is a class")
    elif IGNORE in present:
        pixels = np.sum([np.zeros(256), *(v.counts for v in values if v.counts is not None)], axis=0)
        share = f", {pixels[IGNORE] / pixels.sum():.1%} of the pixels" if pixels.any() else ""
        notes.append(f"255 is ignored{share}; if it is a class, list the classes in classes.txt: 255,name")
    codes = number_classes((), shift).codes
    codes[numbers] = np.arange(len(numbers))
    return MaskClasses(tuple(map(str, numbers)), codes), notes


def sample_values(paths: Sequence[Path]) -> tuple[list[MaskValues], int]:
    """The values of a sample of the masks that can be read, and the size of the sample."""
    sample = evenly_spaced(len(paths), MAX_SAMPLE)
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda i: values_of(paths[i]), sample))
    return [v for v in found if v is not None], len(sample)


def values_of(path: Path) -> MaskValues | None:
    """The values of a mask; None where it cannot be read."""
    is_jpeg = False
    try:
        values = read_values(path)
    except BadImage:
        try:
            values, is_jpeg = read_values(path, allow_jpeg=True), True
        except BadImage:
            return None
    grey = values.dtype == np.uint8
    counts = np.bincount(values.ravel(), minlength=256) if grey else None
    distinct = np.flatnonzero(counts) if counts is not None else np.unique(values)
    return MaskValues(values.dtype == COLOUR, is_jpeg, counts, [int(v) for v in distinct[: MAX_CLASSES * 16]])
