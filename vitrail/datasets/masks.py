"""Folders of images and masks: `images/a.jpg` and `masks/a.png`, optionally above or below train/, val/, test/.

The folders may have other common names (labels, annotations, JPEGImages, SegmentationClass, ...), or be X and X_masks;
the name of a mask may end in _mask, _seg and the like. A mask has a class for every pixel: a grey value, a palette
index, or a colour listed in `classes.txt` (name,red,green,blue). 255 is ignored beside class numbers, and the second
class beside 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from vitrail.data.annotations.lookalikes import looks_like_mask
from vitrail.data.annotations.mask_classes import detect_classes, fit_classes, threshold_classes
from vitrail.data.annotations.masks import MaskClasses, MaskReader, find_class_table
from vitrail.data.annotations.pairs import (
    ANNOTATION,
    IMAGE,
    Folder,
    Item,
    Pair,
    classify_file,
    find_folder_words,
    list_folders,
    make_entry,
    match_pairs,
    note_unmatched,
)
from vitrail.data.dataset import Dataset, Entry, Split
from vitrail.data.decode import read_header
from vitrail.data.files import FileReader, detect_channels, list_images, resolve_folder
from vitrail.data.splits import assign_parts, find_part
from vitrail.errors import BadImage, DataError
from vitrail.validation import Byte, Count, NonNegative

LAYOUT = "put images into images/, masks of the same names into masks/; or into images/train, masks/train, likewise val"
MAX_CHECKED = 5  # pairs of X and X_masks that are checked


@dataclass(frozen=True)
class Config:
    path: str = ""
    channels: Count = 0  # 1, 3 or 4; 0: as the data
    zero: Literal["keep", "ignore"] = "keep"  # "ignore": 0 is ignored, 1 is the first class (reduce_zero_label)
    threshold: Byte = 0  # grey values from here on are the second class, those below the first; 0: by the values
    follow_links: bool = False  # symbolic links out of the folder too
    whole: bool = False  # for evaluation: any classes, one is enough
    split: tuple[NonNegative, ...] = ()  # fractions or counts of train, val, test if the data has none; empty: 0.8 0.2
    seed: Count = 0  # of the random split
    test: str | tuple[str, ...] = ()  # names of images that are held out as the test split


def matches(path: str) -> bool:
    """A folder with images in images/ and masks in masks/, or in folders of equivalent names or contents."""
    root = Path(path).expanduser()
    try:
        if not root.is_dir():
            return False
        words = find_folder_words(root)
        if not {IMAGE, ANNOTATION} <= {w.role for w in words.values()}:
            return False
        pairs, _ = find_pairs(root, follow=True)
        has_files = set() if pairs else {classify_file(e, words)[0] for e in list_images(root, follow=True).entries}
    except (OSError, DataError):
        return True
    near = {*list_folders(root), *(n for f in list_folders(root) if find_part(f) for n in list_folders(root / f))}
    is_sure = any(words.get(n.lower(), Folder("", "?")) == (ANNOTATION, "", "") for n in near)
    if not pairs:  # unmatched images and masks are still no class folders
        return is_sure and {IMAGE, ANNOTATION} <= has_files
    return is_sure or all(is_mask_of(root, p) for p in pairs[:: max(1, len(pairs) // MAX_CHECKED)])


def build(config: Config) -> Dataset:
    """Images with their masks; see the docstring of the module. Raises `DataError`."""
    root = resolve_folder(config.path)
    pairs, notes = find_pairs(root, config.follow_links)
    if not pairs:
        raise DataError(f"{root} has no image with a mask{' (' + notes[0] + ')' if notes else ''}", LAYOUT)
    shift = int(config.zero == "ignore")
    at = {(root / p.annotation.name).parent for p in pairs[:1]} | {root}
    above = [f for start in at for f in (start, *start.parents) if f == root or root in f.parents]
    table = find_class_table(list(dict.fromkeys(above)), shift)
    extra: tuple[Entry, ...] = ()
    files = [root / p.annotation.name for p in pairs]
    detected: list[str] = []
    if table:
        extra = (make_entry(root, table[1]),)
    if config.threshold:
        classes = threshold_classes(config.threshold)
        classes = classes._replace(names=table[0].names) if table and len(table[0].names) == 2 else classes
    else:
        classes, detected = fit_classes(table[0], files, shift) if table else detect_classes(files, shift)
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
    if len(classes.names) < 2 and not config.whole:
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


def find_pairs(root: Path, follow: bool = False) -> tuple[list[Pair], list[str]]:
    """The pairs below a folder, and notes on what was left out."""
    words = find_folder_words(root)
    contents = list_images(root, follow=follow)
    items: dict[str, list[Item]] = {IMAGE: [], ANNOTATION: [], "": []}
    for entry in contents.entries:
        role, item = classify_file(entry, words)
        items[role].append(item)
    pairs, unmatched, unused = match_pairs(items[IMAGE], items[ANNOTATION], "mask")
    notes = (
        contents.notes((".txt", ".csv"))
        + note_unmatched(unmatched, "image", "a mask")
        + note_unmatched(unused, "mask", "an image")
    )
    return pairs, notes + note_unmatched(items[""], "image", "a folder for images or for masks")


def is_mask_of(root: Path, pair: Pair) -> bool:
    """Whether a file is the mask of another, not an image of another class: of equal size, and no photograph."""
    try:
        image, mask = read_header(root / pair.image.name), read_header(root / pair.annotation.name)
        if image.size != mask.size or mask.format != "JPEG":
            return image.size == mask.size
        return looks_like_mask(root / pair.annotation.name) and not looks_like_mask(root / pair.image.name)
    except BadImage:
        return False
