"""The images of int8: those that calibrate it are training images, those that measure its accuracy are held out."""

from typing import NamedTuple

import numpy as np

from vitrail.assembly.data import open_data_of
from vitrail.assembly.model import ModelBundle
from vitrail.contracts import Task
from vitrail.data.dataset import Dataset, Split
from vitrail.errors import VitrailError, many
from vitrail.evaluation.classes import match_classes
from vitrail.evaluation.scope import ALL
from vitrail.evaluation.subject import SubjectRequest, describe_data, is_readable, open_source
from vitrail.export.images import take
from vitrail.heads.image_text import TextTask

CALIBRATING, HELD_OUT = 128, 1000  # images at most


class HeldOut(NamedTuple):
    """Images with labels or annotations that the model was not trained on. sentence: which."""

    split: Split
    sentence: str


class Int8Images(NamedTuple):
    """calibration: uint8 [H W C] each, none where the training images cannot be read. held_out: None where there are no
    annotated images. sentence: which images calibrate, or why none do; unmeasured: why none measure the accuracy."""

    calibration: list[np.ndarray]
    held_out: HeldOut | None
    sentence: str
    unmeasured: str = ""


def read_int8_images(request: SubjectRequest, bundle: ModelBundle, count: int = HELD_OUT) -> Int8Images:
    """Images at equal distances, always the same. Of other data without a training part, every second image calibrates
    and the others are held out. count: of held-out images at most. Errors: those of data that was given."""
    try:
        dataset, part, split, run = open_source(request, bundle.task)
        matched = match_classes(split, dataset, bundle.classes, bundle.task).split
    except VitrailError as error:
        if request.data:
            raise
        why = f"the data of the run cannot be read ({error.what})"
        return Int8Images([], None, why, why)
    name = request.data or describe_data(run, dataset)
    training, where = find_training(request, bundle.task, dataset, part), "training images"
    if training is None:
        halves = np.arange(len(matched))
        training, matched = matched.select(halves[::2]), matched.select(halves[1::2])
        where = f"images of {name}, which are not evaluated"
    images = take(training, bundle, CALIBRATING)
    sentence = f"{many(len(images), 'image').split()[0]} {where}"
    if isinstance(bundle.task, TextTask):  # retrieval needs the text tower, which no exported file has
        return Int8Images(images, None, sentence, "retrieval needs the text tower, which an exported file has not")
    return Int8Images(images, choose_held_out(matched, part, name, count), sentence, "no held-out image can be read")


def find_training(request: SubjectRequest, task: Task, dataset: Dataset, part: str) -> Split | None:
    """The training part of the data, or else of the run; None where there is none beside the images to evaluate."""
    if part not in ("train", ALL) and "train" in dataset.splits:
        return dataset.splits["train"]
    if not request.data:
        return None
    try:
        return open_data_of(request.source)[0].splits.get("train")
    except VitrailError:
        return None


def choose_held_out(split: Split, part: str, name: str, most: int) -> HeldOut | None:
    """Up to `most` images at equal distances; None where none can be read."""
    chosen = np.unique(np.linspace(0, len(split) - 1, min(most, len(split))).round().astype(int))
    chosen = np.array([i for i in chosen if is_readable(split, int(i))], int)
    if not len(chosen):
        return None
    of = "all of" if part == ALL else f"the {part} part of"
    some = f"{len(chosen):,} of {len(split):,} images" if len(chosen) < len(split) else many(len(chosen), "image")
    return HeldOut(split.select(chosen), f"{some}, {of} {name}")
