"""Builds a detection data set from images and boxes: splits, tiles, notes. Shared by the detection layouts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from vitrail.data.annotations.boxes import pack_boxes
from vitrail.data.annotations.tiles import tile_split
from vitrail.data.dataset import Boxes, Dataset, Entry, Split
from vitrail.data.files import FileReader, detect_channels
from vitrail.data.splits import assign_parts
from vitrail.errors import DataError, many

OBJECT = "object"  # name of the only class with `one_class`


class DetectionKeys(Protocol):
    """The keys that the detection layouts have in common."""

    @property
    def channels(self) -> int:
        """1, 3 or 4; 0: as the data."""
        ...

    @property
    def split(self) -> tuple[float, ...]:
        """Fractions or counts of train, val and test if the data has no splits; empty: 0.8 0.2."""
        ...

    @property
    def seed(self) -> int:
        """Of the random split."""
        ...

    @property
    def test(self) -> str | tuple[str, ...]:
        """Names of images that are held out as the test split."""
        ...

    @property
    def tile(self) -> int:
        """Side in pixels of the tiles of training images; 0: whole images. Evaluation takes whole images."""
        ...

    @property
    def overlap(self) -> float:
        """Overlap of neighbouring tiles, as a fraction of a tile."""
        ...

    @property
    def empty(self) -> str:
        """Whether to "keep" or "drop" training tiles without any box."""
        ...

    @property
    def one_class(self) -> bool:
        """Whether all objects are of one class."""
        ...


@dataclass
class AnnotatedImage:
    """An image with its boxes. size: (height, width), None if unreadable. part: its split, or ""."""

    name: str
    part: str
    size: tuple[int, int] | None
    boxes: Boxes


class DatasetSources(NamedTuple):
    """The files of a data set, and notes for the user."""

    entries: Sequence[Entry]
    notes: Sequence[str]


def assemble_dataset(
    layout: str,
    root: Path,
    images: Sequence[AnnotatedImage],
    classes: Sequence[str],
    config: DetectionKeys,
    sources: DatasetSources,
) -> Dataset:
    """The data set of these images, in the splits that they name or that the config defines. Raises `DataError`."""
    if not images:
        raise DataError(f"{root} has no image with an annotation", sources.notes[0] if sources.notes else "")
    if not classes or not any(len(p.boxes.labels) for p in images):
        raise DataError(
            f"{root}: none of {len(images):,} images has a box", "check that these are the right annotations"
        )
    if config.one_class:
        classes = (OBJECT,)
        images = [replace(p, boxes=p.boxes._replace(labels=np.zeros_like(p.boxes.labels))) for p in images]
    names = [p.name for p in images]
    part_indices, notes = assign_parts(names, [s.part for s in images], config.split, config.seed, config.test)
    check_crowds(root, [images[i].boxes for i in part_indices.get("train", range(0))])
    channels = detect_channels(config.channels, root, names)
    splits = {}
    for part, chosen in part_indices.items():
        own_names = [names[i] for i in chosen]
        own = Split(
            own_names,
            np.zeros(len(own_names), np.int64),
            FileReader(root, own_names, channels),
            pack_boxes([images[i].boxes for i in chosen]),
        )
        if config.tile and part == "train":
            sizes, count = [images[i].size for i in chosen], len(own_names)
            own = tile_split(own, sizes, config.tile, config.overlap, config.empty == "keep")
            counts = f"{many(count, 'image')} of {part} into {many(len(own), 'tile')}"
            notes.append(f"cut into tiles of at most {config.tile} x {config.tile}: {counts}")
        if len(own):
            splits[part] = own
    if "train" in part_indices and "train" not in splits:
        raise DataError(f"{root}: no tile of the training images has a box", "--data.empty keep, or larger tiles")
    return Dataset(
        layout, tuple(classes), splits, channels, tuple(sorted(set(sources.entries))), (*sources.notes, *notes), "boxes"
    )


def check_crowds(root: Path, train: Sequence[Boxes]) -> None:
    """Errors: `DataError` where there is nothing to learn from, as every training box is a crowd or difficult."""
    count = sum(len(boxes.labels) for boxes in train)
    if count and all(boxes.crowd.all() for boxes in train):
        what = many(count, "training box is a crowd or difficult", "training boxes are crowds or difficult")
        raise DataError(
            f"{root}: {'all ' if count > 1 else 'the '}{what}, from which nothing is learned",
            "--data.crowds objects takes them as objects (CVAT writes iscrowd 1 for every mask)",
        )
