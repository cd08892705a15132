"""The classes of other data, mapped by name to those of a model: some of them, or in another order."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from vitrail.contracts import Task
from vitrail.data.dataset import IGNORE, Boxes, Dataset, Split
from vitrail.errors import BadImage, DataError, many, nearest

SHOWN = 8  # names of classes in a message


class MatchedSplit(NamedTuple):
    """A split with the classes of a model. names: those of the data that the model knows; excluded: what was left out,
    "" for nothing."""

    split: Split
    names: tuple[str, ...]
    excluded: str = ""


@dataclass(frozen=True)
class MappedAnnotations:
    """Masks or boxes with other class indices by `values` [256], -1 for what is left out: pixels are ignored, objects
    are dropped."""

    read: Callable[[int], Any]
    values: np.ndarray

    def __call__(self, index: int) -> Any:
        annotation = self.read(index)
        if not isinstance(annotation, Boxes):
            return np.where(self.values < 0, IGNORE, self.values).astype(np.uint8)[annotation]
        labels = self.values[annotation.labels]
        kept = labels >= 0
        return Boxes(annotation.boxes[kept], labels[kept], annotation.crowd[kept])


def match_classes(
    split: Split, dataset: Dataset, classes: tuple[str, ...], task: Task, skip_unknown: bool = False
) -> MatchedSplit:
    """A split of `dataset` with the labels, masks or boxes of a model's classes, matched by name. skip_unknown: leave
    out what has a class that the model does not know.

    Errors: `DataError` for other annotations than the task learns from, and for unknown classes.
    """
    if not task.learns_from(dataset.kind):
        raise DataError(
            f"the model predicts {task.annotations}, and this data has {dataset.kind}",
            f"use data with {task.annotations}",
        )
    split = match_labels(split, task, dataset.classes)
    if task.output_names(dataset.classes) == classes:
        return MatchedSplit(split, classes)
    index = {name: i for i, name in enumerate(classes)}
    values = np.array([index.get(name, -1) for name in dataset.classes], np.int64)
    counts = count_unknown(split, dataset, values)
    names = tuple(name for name in dataset.classes if name in index)
    if counts and not (skip_unknown and names):
        raise unknown_error(dataset, classes, counts)
    return MatchedSplit(map_split(split, values, len(classes)), names, describe_excluded(counts, dataset))


def match_labels(split: Split, task: Task, names: tuple[str, ...]) -> Split:
    """Labels in the form that the task has: one class, or any number of them. Errors: `DataError`."""
    labels = split.labels
    if not task.is_classifier or (labels.ndim == 2) == task.multi_label:
        return split
    if task.multi_label:  # a table in which every image happens to have one label
        return dataclasses.replace(split, labels=np.eye(len(names), dtype=np.uint8)[labels])
    several = np.flatnonzero(labels.sum(1) != 1)
    if len(several):
        raise DataError(
            f"the model predicts one class an image, and {many(len(several), 'image')} of this data "
            f"{'has' if len(several) == 1 else 'have'} another number, the first {split.names[int(several[0])]}",
            "use data with one class an image",
        )
    return dataclasses.replace(split, labels=labels.argmax(1).astype(np.int64))


def count_unknown(split: Split, dataset: Dataset, values: np.ndarray) -> dict[str, int]:
    """By name, how many images, pixels or objects have each class that the model does not know; those that do not
    occur in the split are omitted. Annotations are read for it only where there may be any."""
    unknown = [int(i) for i in np.flatnonzero(values < 0)]
    occurring = np.zeros(max(IGNORE + 1, len(values)), np.int64)
    if not unknown:
        return {}
    if split.annotation is not None:
        for i in range(len(split)):
            try:
                annotation = split.annotation(i)
            except BadImage:  # reported where it is evaluated
                continue
            labels = annotation.labels if isinstance(annotation, Boxes) else annotation.ravel()
            occurring += np.bincount(labels, minlength=len(occurring))
    elif split.labels.ndim == 2:
        occurring[: len(values)] = split.labels.sum(0)
    else:
        occurring[: len(values)] = np.bincount(split.labels, minlength=len(values))
    return {dataset.classes[i]: int(occurring[i]) for i in unknown if occurring[i]}


def unknown_error(dataset: Dataset, classes: tuple[str, ...], counts: dict[str, int]) -> DataError:
    """With the names that are meant, where they are known."""
    trained = ", ".join(map(repr, classes[:SHOWN])) + (", ..." if classes[SHOWN:] else "")
    what = f"the model does not know {', '.join(map(repr, list(counts)[:5]))}; it was trained on {trained}"
    if not set(dataset.classes) & set(classes):
        if all(name.isdecimal() for name in dataset.classes) and dataset.layout in ("npz", "idx", "table"):
            listed = '["' + '", "'.join(classes[:SHOWN]) + ('", ...]' if classes[SHOWN:] else '"]')
            return DataError(what, f"name the classes 0, 1, ... of this data: --data.classes '{listed}'")
        return DataError(what, "classes are matched by name: rename the folders or labels")
    near = [f"{name!r} as {match[0]!r}" for name in counts if (match := nearest(name, classes))]
    rename = f"rename {', '.join(near[:3])}" if near else "rename the folders or labels"
    return DataError(what, f"classes are matched by name: {rename}; or --skip-unknown leaves these out, counted")


def describe_excluded(counts: dict[str, int], dataset: Dataset) -> str:
    if not counts:
        return ""
    names = ", ".join(list(counts)[:SHOWN]) + (f" and {len(counts) - SHOWN} more" if len(counts) > SHOWN else "")
    total = sum(counts.values())
    thing = {"masks": "pixel", "boxes": "object"}.get(dataset.kind, "label" if dataset.multi_label else "image")
    return f"{many(total, thing)} of {many(len(counts), 'class', 'classes')} that the model does not know: {names}"


def map_split(split: Split, values: np.ndarray, classes: int) -> Split:
    """The split with class indices by `values` [K], -1 for what is left out."""
    if split.annotation is not None:
        table = np.full(max(IGNORE + 1, len(values)), -1, np.int64)
        table[: len(values)] = values
        return dataclasses.replace(split, annotation=MappedAnnotations(split.annotation, table))
    if split.labels.ndim == 2:
        labels = np.zeros((len(split), classes), np.uint8)
        labels[:, values[values >= 0]] = split.labels[:, values >= 0]
        return dataclasses.replace(split, labels=labels)
    mapped = values[split.labels]
    kept = split if (mapped >= 0).all() else split.select(np.flatnonzero(mapped >= 0))
    return dataclasses.replace(kept, labels=mapped[mapped >= 0])
