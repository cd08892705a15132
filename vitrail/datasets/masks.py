"""Folders of images and masks: `images/a.jpg` and `masks/a.png`, optionally above or below train/, val/, test/.

The folders may have other common names (labels, annotations, JPEGImages, SegmentationClass, ...), or be X and X_masks;
the name of a mask may end in _mask, _seg and the like. A mask has a class for every pixel: a grey value, a palette
index, or a colour listed in `classes.txt` (name,red,green,blue). 255 is ignored.
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

LAYOUT = "put images into images/, masks of the same names into masks/; or into images/train, masks/train, likewise val"
MASK_FOLDERS = {
    "masks",
    "mask",
    "segmentationclass",
    "labels",
    "label",
    "annotations",
    "gt",
    "groundtruth",
    "labelmaps",
}
MAX_CHECKED = 5  # pairs of X and X_masks that are checked


@dataclass(frozen=True)
class Config:
    path: str = ""
    channels: Count = 0  # 1, 3 or 4; 0: as the data
    zero: Literal["keep", "ignore"] = "keep"  # "ignore": 0 is ignored, 1 is the first class (reduce_zero_label)
    split: tuple[NonNegative, ...] = ()  # fractions or counts of train, val, test if the data has none; empty: 0.8 0.2
    seed: Count = 0  # of the random split
    test: str | tuple[str, ...] = ()  # names of images that are held out as the test split


def matches(path: str) -> bool:
    """A folder with images in images/ and masks in masks/, or in folders of equivalent names."""
    root = Path(path).expanduser()
    try:
        if not root.is_dir() or not has_image_and_mask_folders(root):
            return False
        pairs, _ = find_pairs(root)
    except (OSError, DataError):
        return True
    if not pairs:  # unmatched images and masks are still no class folders
        return bool(list_images(root).entries) and any(is_mask_folder(name) for name in list_subfolders(root))
    return any(is_mask_folder(name) for name in list_subfolders(root)) or all(
        is_mask_of(root, p) for p in pairs[:: max(1, len(pairs) // MAX_CHECKED)]
    )


def build(config: Config) -> Dataset:
    """Images with their masks; see the docstring of the module. Raises `DataError`."""
    root = resolve_folder(config.path)
    pairs, notes = find_pairs(root)
    if not pairs:
        raise DataError(f"{root} has no image with a mask{' (' + notes[0] + ')' if notes else ''}", LAYOUT)
    shift = int(config.zero == "ignore")
    at = {(root / p.annotation.name).parent for p in pairs[:1]} | {root}
    above = [f for start in at for f in (start, *start.parents) if f == root or root in f.parents]
    table = find_class_table(list(dict.fromkeys(above)), shift)
    extra: tuple[Entry, ...] = ()
    files = [root / p.annotation.name for p in pairs]
    if table:
        classes, extra = fit_classes(table[0], files, shift), (make_entry(root, table[1]),)
    else:
        classes, detected = detect_classes(files, shift)
        notes = notes + detected
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
    """The data set of these pairs, in the splits that they name or that the config defines. Raises `DataError`."""
    if len(classes.names) < 2:
        what = f"{root}: the masks have {len(classes.names)} class{'' if classes.names else 'es'}"
        raise DataError(what + "; segmentation takes two or more", "check that these are the right masks")
    names = [p.image.name for p in pairs]
    part_indices, split_notes = assign_parts(names, [p.part for p in pairs], config.split, config.seed, config.test)
    channels = detect_channels(config.channels, root, names)
    splits = {}
    for part, chosen in part_indices.items():
        own_names = [names[i] for i in chosen]
        annotation = MaskReader(root, [pairs[i].annotation.name for i in chosen], own_names, classes)
        splits[part] = Split(
            own_names, np.zeros(len(own_names), np.int64), FileReader(root, own_names, channels), annotation
        )
    entries = sorted({e for p in pairs for e in (p.image, p.annotation)} | set(extra))
    return Dataset(layout, classes.names, splits, channels, tuple(entries), tuple(notes + split_notes), "masks")


def find_pairs(root: Path) -> tuple[list[Pair], list[str]]:
    """The pairs below a folder, and notes on what was left out."""
    words = find_folder_words(root)
    contents = list_images(root)
    items: dict[str, list[Item]] = {IMAGE: [], ANNOTATION: [], "": []}
    for entry in contents.entries:
        role, item = classify_file(entry, words)
        items[role].append(item)
    pairs, unmatched, unused = match_pairs(items[IMAGE], items[ANNOTATION], "mask")
    notes = contents.notes() + note_unmatched(unmatched, "image", "a mask") + note_unmatched(unused, "mask", "an image")
    return pairs, notes + note_unmatched(items[""], "image", "a folder for images or for masks")


def list_subfolders(root: Path) -> list[str]:
    """Names of the folders in `root`, and in train/, val/ and test/."""
    first = [e for e in os.scandir(root) if e.is_dir()]
    return [e.name for e in first] + [
        e.name for f in first if f.name.lower() in PARTS for e in os.scandir(f.path) if e.is_dir()
    ]


def is_mask_folder(name: str) -> bool:
    """Whether a folder's name alone implies masks."""
    return name.lower() in MASK_FOLDERS


def has_image_and_mask_folders(root: Path) -> bool:
    """Whether folder names near the top include image folders and mask folders. Reads no files."""
    words = find_folder_words(root)
    return {IMAGE, ANNOTATION} <= {words[n.lower()].role for n in list_subfolders(root) if n.lower() in words}


def is_mask_of(root: Path, pair: Pair) -> bool:
    """Whether a file is the mask of another, not an image of another class: of equal size, and no JPEG."""
    try:
        image, mask = read_header(root / pair.image.name), read_header(root / pair.annotation.name)
    except BadImage:
        return False
    return image.size == mask.size and mask.format != "JPEG"
