"""What of a surveyed data set can be trained on: the images to leave out, what to say, and why it is refused.
`vitrail check` and `vitrail train` both ask here, so that they tell the same about the same data."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vitrail.data.dataset import Dataset
from vitrail.data.survey.advice import FEW, advise
from vitrail.data.survey.annotations import AnnotationSurvey, survey_annotations
from vitrail.data.survey.images import Survey, UnreadableImage
from vitrail.errors import DataError, many

LEAST = 2  # images of a class in all parts together: one to train on, one to evaluate with
SPARED = 3  # unreadable images that stop no start
LISTED = 5  # images or classes that are named in a sentence


@dataclass(frozen=True)
class Assessment:
    """left_out: indices of images to leave out, by split. notes: sentences for the user. refusal: why it cannot be
    trained on, or None. allowing: keys of [data] with which it could be trained on in spite of that."""

    left_out: dict[str, list[int]]
    notes: tuple[str, ...] = ()
    refusal: DataError | None = None
    allowing: dict[str, Any] = field(default_factory=dict)


def assess(
    dataset: Dataset,
    survey: Survey,
    broken: Sequence[UnreadableImage],
    on_error: str,
    max_errors: float,
    listing: str = "vitrail check DATA",
    has_weights: bool = False,
) -> Assessment:
    """broken: images whose masks or boxes cannot be used. on_error: "skip" leaves unreadable images out, up to the
    fraction `max_errors` of all; "fail" allows none. listing: the command that lists all of them.
    has_weights: whether the training starts from weights."""
    unread = [*survey.corrupt, *broken]
    indices: dict[str, list[int]] = {}
    for item in unread:
        indices.setdefault(item.split, []).append(item.number)
    total = max(1, survey.read)  # of a sample: what holds for it is taken for the whole
    fraction = len(unread) / total
    advice = advise(survey, has_weights)
    allowing: dict[str, Any] = {"on_error": "skip"} if on_error == "fail" else {}
    if len(unread) > most_left_out(total, max_errors):
        allowing["max_errors"] = math.ceil(fraction * 1000) / 1000
    amount = f"{many(len(unread), 'image')} ({fraction:.2%})"
    if unread and allowing:
        refusal = _unread_error(amount, unread[0], on_error, max_errors, allowing, fraction == 1, listing)
        if fraction == 1 and not survey.corrupt:
            fix = f"it is their {dataset.kind}, not the images: {listing} lists what is wrong with them"
            refusal = DataError(refusal.what, fix)
        return Assessment(indices, tuple(advice), refusal, {} if fraction == 1 else allowing)
    unreadable = f"not readable: {amount}: {_listed(unread)}; left out when you train with --data.on-error skip"
    notes = [unreadable] if unread else []
    return Assessment(indices, (*notes, *advice), _too_few(dataset, survey, indices))


def most_left_out(total: int, max_errors: float) -> int:
    """How many unreadable images of `total` may be left out: the fraction `max_errors`, and of a small set three, up to
    a fifth of it; with a fraction of 0 none.

    >>> [most_left_out(total, 0.05) for total in (4, 15, 40, 200)]
    [0, 3, 3, 10]
    """
    return max(int(max_errors * total), min(SPARED, total // 5)) if max_errors else 0


def broken_annotations(
    dataset: Dataset, survey: Survey, annotations: AnnotationSurvey | None = None, whole: bool = True
) -> tuple[UnreadableImage, ...]:
    """Masks and boxes that cannot be read or do not fit their image, of images that can be read. annotations: their
    survey, if it was made. whole: all of them are read for it, not those of the sample alone."""
    if not dataset.is_annotated:
        return ()
    unread = {(item.split, item.number) for item in survey.corrupt}
    found = annotations or survey_annotations(dataset, whole=whole)
    return tuple(item for item in found.broken if (item.split, item.number) not in unread)


def _listed(unread: list[UnreadableImage]) -> str:
    """The first of the unreadable images, with the reasons."""
    first = "; ".join(f"{bad.name} {bad.reason}" for bad in unread[:LISTED])
    return first + (f"; and {len(unread) - LISTED:,} more" if len(unread) > LISTED else "")


def _unread_error(
    amount: str,
    first: UnreadableImage,
    on_error: str,
    max_errors: float,
    allowing: dict[str, Any],
    is_all: bool,
    listing: str,
) -> DataError:
    what = f"{amount} cannot be read, the first: {first.name} ({first.reason})"
    if is_all:
        return DataError(what, f"is this a data set of images? {listing} lists the files")
    if on_error == "skip":
        what += f"; up to {max_errors:.2%} are left out"
    words = " ".join(f"--data.{key.replace('_', '-')} {value}" for key, value in allowing.items())
    return DataError(what, f"{listing} lists them all; remove or replace them, or {words} leaves them out")


def _too_few(dataset: Dataset, survey: Survey, left_out: dict[str, list[int]]) -> DataError | None:
    if "train" not in dataset.splits:
        parts = " and ".join(f"{name} ({many(len(split), 'image')})" for name, split in dataset.splits.items())
        return DataError(
            f"the data names {parts} and no train: test images are never trained on",
            "vitrail eval RUN --data takes it; to train, put training images below train/",
        )
    train = len(dataset.splits["train"]) - len(left_out.get("train", []))
    if train < LEAST:
        return DataError(f"there is {many(train, 'image')} to train on", "add images")
    if dataset.multi_label or not survey.counts:
        return None
    totals = np.sum(list(survey.counts.values()), axis=0)
    alone = [dataset.classes[i] for i in np.flatnonzero(totals == LEAST - 1)]
    if not alone:
        return None
    names = ", ".join(alone[:LISTED]) + (", ..." if alone[LISTED:] else "")
    what = f"{many(len(alone), 'class has', 'classes have')} one image only: {names}"
    return DataError(what, f"a class takes {LEAST} images or more, better {FEW}: add images, or remove the class")
