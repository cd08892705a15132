"""Images and their boxes, as a layout found them, made into a data set: parts, tiles, notes. Shared by the layouts of detection."""

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

OBJECT = "object"  # the name of the class that all are, where they are one


class DetectionKeys(Protocol):
    """The keys that the layouts of detection have in common."""

    @property
    def channels(self) -> int:
        """1, 3 or 4; 0: as the data."""
        ...

    @property
    def split(self) -> tuple[float, ...]:
        """Shares or counts of train, val and test, where the data does not say; empty: 0.8 0.2."""
        ...

    @property
    def seed(self) -> int:
        """Of that choice."""
        ...

    @property
    def test(self) -> str | tuple[str, ...]:
        """Names of images that are held out as the test part."""
        ...

    @property
    def tile(self) -> int:
        """Pixels of a side of the tiles that training images are cut into; 0: whole images. Others are judged whole."""
        ...

    @property
    def overlap(self) -> float:
        """Share of a tile that the next has too."""
        ...

    @property
    def empty(self) -> str:
        """Whether to "keep" or "drop" training tiles without any box."""
        ...

    @property
    def one_class(self) -> bool:
        """Whether all objects count as of one class."""
        ...


@dataclass
class AnnotatedImage:
    """An image with its boxes. size: (height, width), None where it cannot be read. part: "" where the data names none."""

    name: str
    part: str
    size: tuple[int, int] | None
    boxes: Boxes


class DatasetSources(NamedTuple):
    """The files that a data set is made of, and what a user should know of it."""

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
    """The data set of images that were found, in the parts that they name or that the config asks for. Raises `DataError`."""
    if not images:
        raise DataError(f"{root} holds no image of which boxes are known", sources.notes[0] if sources.notes else "")
    if not classes or not any(len(p.boxes.labels) for p in images):
        raise DataError(f"{root}: not one of {len(images):,} images has a box", "are these the right annotations?")
    if config.one_class:
        classes = (OBJECT,)
        images = [replace(p, boxes=p.boxes._replace(labels=np.zeros_like(p.boxes.labels))) for p in images]
    names = [p.name for p in images]
    places, notes = assign_parts(names, [s.part for s in images], config.split, config.seed, config.test)
    channels = detect_channels(config.channels, root, names)
    splits = {}
    for part, chosen in places.items():
        mine = [names[i] for i in chosen]
        whole = Split(
            mine,
            np.zeros(len(mine), np.int64),
            FileReader(root, mine, channels),
            pack_boxes([images[i].boxes for i in chosen]),
        )
        if config.tile and part == "train":
            sizes, count = [images[i].size for i in chosen], len(mine)
            whole = tile_split(whole, sizes, config.tile, config.overlap, config.empty == "keep")
            said = f"{many(count, 'image')} of {part} into {many(len(whole), 'tile')}"
            notes.append(f"cut into tiles of at most {config.tile} x {config.tile}: {said}")
        if len(whole):
            splits[part] = whole
    if "train" not in splits:
        raise DataError(f"{root}: no tile of the training images holds a box", "--data.empty keep, or larger tiles")
    return Dataset(
        layout, tuple(classes), splits, channels, tuple(sorted(set(sources.entries))), (*sources.notes, *notes), "boxes"
    )
