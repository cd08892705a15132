"""Folders of images and masks: `images/a.jpg` and `masks/a.png`, with or without train/, val/ and test/ above or below them.

The folders may be called by other names of the field (labels, annotations, JPEGImages, SegmentationClass, ...), or X and X_masks; a mask
may end in _mask, _seg and the like. A mask holds a class for every pixel: a grey value, a palette index, or a colour that `classes.txt`
(name,red,green,blue) explains. 255 is ignored.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from vitrail.data.annotations.masks import MaskClasses, MaskReader, detect_classes, find_class_table, fit_classes
from vitrail.data.annotations.pairs import (
    ANNOTATION,
    IMAGE,
    Item,
    Pair,
    classify_file,
    find_folder_words,
    make_entry,
    match_pairs,
    note_unmatched,
)
from vitrail.data.dataset import Dataset, Entry, Split
from vitrail.data.decode import read_header
from vitrail.data.files import FileReader, detect_channels, list_images, resolve_folder
from vitrail.data.splits import PARTS, assign_parts
from vitrail.errors import BadImage, DataError
from vitrail.validation import Count, NonNegative

LAYOUT = "images belong in images/, their masks under the same names in masks/; or in images/train and masks/train, and so for val"
SIGNS = 5  # pairs of X and X_masks that are looked at


@dataclass(frozen=True)
class Config:
    path: str = ""
    channels: Count = 0  # 1, 3 or 4; 0: as the data
    zero: Literal["keep", "ignore"] = (
        "keep"  # "ignore": 0 counts for nothing, and value 1 is the first class (reduce_zero_label)
    )
    split: tuple[
        NonNegative, ...
    ] = ()  # shares or counts of train, val and test, where the folders do not say; empty: 0.8 0.2
    seed: Count = 0  # of that choice
    test: str | tuple[str, ...] = ()  # names of images that are held out as the test part


def matches(path: str) -> bool:
    """A folder with images in images/ and images in masks/, or in folders that mean the same."""
    root = Path(path).expanduser()
    try:
        if not root.is_dir() or not names_roles(root):
            return False
        pairs, _ = find_pairs(root)
    except (OSError, DataError):
        return True
    if not pairs:  # images and masks that cannot be told to belong together are still no classes
        return bool(list_images(root).entries) and any(word(name) for name in nested(root))
    return any(word(name) for name in nested(root)) or all(
        are_alike(root, p) for p in pairs[:: max(1, len(pairs) // SIGNS)]
    )


def build(config: Config) -> Dataset:
    """Images with their masks; see the head of the file. Raises `DataError`."""
    root = resolve_folder(config.path)
    pairs, notes = find_pairs(root)
    if not pairs:
        raise DataError(f"{root} holds no image with a mask{' (' + notes[0] + ')' if notes else ''}", LAYOUT)
    shift = int(config.zero == "ignore")
    at = {(root / p.annotation.name).parent for p in pairs[:1]} | {root}
    above = [f for start in at for f in (start, *start.parents) if f == root or root in f.parents]
    table = find_class_table(list(dict.fromkeys(above)), shift)
    extra: tuple[Entry, ...] = ()
    files = [root / p.annotation.name for p in pairs]
    if table:
        classes, extra = fit_classes(table[0], files, shift), (make_entry(root, table[1]),)
    else:
        classes, said = detect_classes(files, shift)
        notes = notes + said
    return assemble_dataset("masks", root, pairs, classes, config, notes, extra)


def assemble_dataset(
    layout: str,
    root: Path,
    pairs: Sequence[Pair],
    classes: MaskClasses,
    config: Config,
    notes: list[str],
    extra: tuple[Entry, ...] = (),
) -> Dataset:
    """The data set of pairs that were found, in the parts that they name or that the config asks for. Raises `DataError`."""
    if len(classes.names) < 2:
        what = f"{root}: the masks hold {len(classes.names)} class{'' if classes.names else 'es'}"
        raise DataError(what + "; there is nothing to tell apart", "are these the right masks?")
    names = [p.image.name for p in pairs]
    places, said = assign_parts(names, [p.part for p in pairs], config.split, config.seed, config.test)
    channels = detect_channels(config.channels, root, names)
    splits = {}
    for part, chosen in places.items():
        mine = [names[i] for i in chosen]
        annotation = MaskReader(root, [pairs[i].annotation.name for i in chosen], mine, classes)
        splits[part] = Split(mine, np.zeros(len(mine), np.int64), FileReader(root, mine, channels), annotation)
    entries = sorted({e for p in pairs for e in (p.image, p.annotation)} | set(extra))
    return Dataset(layout, classes.names, splits, channels, tuple(entries), tuple(notes + said), "masks")


def find_pairs(root: Path) -> tuple[list[Pair], list[str]]:
    """The pairs below a folder, and notes on what was left out."""
    words = find_folder_words(root)
    found = list_images(root)
    items: dict[str, list[Item]] = {IMAGE: [], ANNOTATION: [], "": []}
    for entry in found.entries:
        role, item = classify_file(entry, words)
        items[role].append(item)
    pairs, bare, spare = match_pairs(items[IMAGE], items[ANNOTATION], "mask")
    notes = found.notes() + note_unmatched(bare, "image", "a mask") + note_unmatched(spare, "mask", "an image")
    return pairs, notes + note_unmatched(items[""], "image", "a folder that says whether they are images or masks")


def nested(root: Path) -> list[str]:
    """Names of the folders in `root`, and in train/, val/ and test/."""
    first = [e for e in os.scandir(root) if e.is_dir()]
    return [e.name for e in first] + [
        e.name for f in first if f.name.lower() in PARTS for e in os.scandir(f.path) if e.is_dir()
    ]


def word(name: str) -> bool:
    """Whether a folder's name says by itself that masks lie in it."""
    return name.lower() in (
        "masks",
        "mask",
        "segmentationclass",
        "labels",
        "label",
        "annotations",
        "gt",
        "groundtruth",
        "labelmaps",
    )


def names_roles(root: Path) -> bool:
    """Whether names of folders near the top say that there are images here, and masks there. Costs no look at the files."""
    words = find_folder_words(root)
    return {IMAGE, ANNOTATION} <= {words[n.lower()].role for n in nested(root) if n.lower() in words}


def are_alike(root: Path, pair: Pair) -> bool:
    """Whether a file is the mask of another rather than an image of another class: of one size, and nothing that was photographed."""
    try:
        image, mask = read_header(root / pair.image.name), read_header(root / pair.annotation.name)
    except BadImage:
        return False
    return image.size == mask.size and mask.format != "JPEG"
