"""Which of the annotations of shards are read: those that they were packed for, or others that they have too."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vitrail.data.annotations.captions import CaptionReader
from vitrail.data.dataset import AnnotationKind, Dataset, Split
from vitrail.data.index.names import pack_names
from vitrail.errors import DataError, many

KINDS: dict[str, AnnotationKind] = {
    "classes": "classes", "masks": "masks", "boxes": "boxes", "captions": "captions", "none": "none",
}  # fmt: skip
LABELLED = ("classes", "captions")  # kinds of data whose labels are classes of whole images, where there are classes


def choose_annotation(wanted: str, kind: AnnotationKind, classes: Sequence[str], folder: Path) -> AnnotationKind:
    """What is read of shards that were packed for `kind`. Errors: `DataError` for what they cannot have."""
    possible = {kind, "captions", *(("classes",) if classes and kind in LABELLED else ())}
    if wanted and wanted not in possible:
        raise lacking(wanted, kind, folder)
    return KINDS[wanted or kind]


def lacking(wanted: str, kind: AnnotationKind, folder: Path) -> DataError:
    return DataError(f"the shards in {folder} have {kind} and no {wanted}", f"--data.annotation {kind}")


def with_annotation(dataset: Dataset, wanted: AnnotationKind, folder: Path) -> Dataset:
    """A data set that was opened for an annotation; of captions without the images that have none. Errors: `DataError`
    where there are no captions at all."""
    if wanted != "captions":
        return replace(dataset, kind=wanted)
    own = {part: captioned(split) for part, split in dataset.splits.items()}
    if not any(map(len, own.values())):
        raise lacking(wanted, dataset.kind, folder)
    others = {part: np.setdiff1d(np.arange(len(split)), own[part]) for part, split in dataset.splits.items()}
    names = [split.names[i] for part, split in dataset.splits.items() for i in others[part].tolist()]
    notes = [f"left out, as they have no caption: {many(len(names), 'image')}, the first {names[0]}"] if names else []
    splits = {
        part: split.select(own[part]) if len(others[part]) else split
        for part, split in dataset.splits.items()
        if len(own[part])
    }
    classes = dataset.classes if dataset.kind in LABELLED else ()
    return replace(dataset, kind=wanted, splits=splits, classes=classes, notes=(*dataset.notes, *notes))


def captioned(split: Split) -> np.ndarray:
    """Indices of the images with a caption, int64, ascending."""
    if not isinstance(split.annotation, CaptionReader):
        return np.zeros(0, np.int64)
    texts = pack_names(split.annotation.texts)
    return np.flatnonzero(np.asarray(texts.ends) > np.asarray(texts.starts))
