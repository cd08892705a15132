"""Folders of pictures and masks: `images/a.jpg` and `masks/a.png`, with or without train/, val/ and test/ above or below them.

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

from vitrail.data.annotations.masks import Classes, MaskReader, fitted, looked, table_of
from vitrail.data.annotations.pairs import PICTURE, TRUTH, Item, Pair, alone, entry_of, paired, place, words_of
from vitrail.data.dataset import Dataset, Entry, Split
from vitrail.data.decode import header
from vitrail.data.files import FileReader, channels_of, folder_at, walk
from vitrail.data.splits import PARTS, arrange
from vitrail.errors import BadImage, DataError
from vitrail.validation import Amount, Count

LAYOUT = "pictures belong in images/, their masks under the same names in masks/; or in images/train and masks/train, and so for val"
SIGNS = 5  # pairs of X and X_masks that are looked at


@dataclass(frozen=True)
class Config:
    path: str = ""
    channels: Count = 0  # 1, 3 or 4; 0: as the data
    zero: Literal["keep", "ignore"] = "keep"  # "ignore": 0 counts for nothing, and value 1 is the first class (reduce_zero_label)
    split: tuple[Amount, ...] = ()  # shares or counts of train, val and test, where the folders do not say; empty: 0.8 0.2
    seed: Count = 0  # of that choice
    test: str | tuple[str, ...] = ()  # names of pictures that are held out as the test part


def matches(path: str) -> bool:
    """A folder with pictures in images/ and pictures in masks/, or in folders that mean the same."""
    root = Path(path).expanduser()
    try:
        if not root.is_dir() or not speaking(root):
            return False
        pairs, _ = find(root)
    except (OSError, DataError):
        return True
    if not pairs:  # pictures and masks that cannot be told to belong together are still no classes
        return bool(walk(root).entries) and any(word(name) for name in nested(root))
    return any(word(name) for name in nested(root)) or all(alike(root, p) for p in pairs[:: max(1, len(pairs) // SIGNS)])


def build(config: Config) -> Dataset:
    """Pictures with their masks; see the head of the file. Raises `DataError`."""
    root = folder_at(config.path)
    pairs, notes = find(root)
    if not pairs:
        raise DataError(f"{root} holds no picture with a mask{' (' + notes[0] + ')' if notes else ''}", LAYOUT)
    shift = int(config.zero == "ignore")
    at = {(root / p.truth.name).parent for p in pairs[:1]} | {root}
    above = [f for start in at for f in (start, *start.parents) if f == root or root in f.parents]
    table = table_of(list(dict.fromkeys(above)), shift)
    extra: tuple[Entry, ...] = ()
    files = [root / p.truth.name for p in pairs]
    if table:
        classes, extra = fitted(table[0], files, shift), (entry_of(root, table[1]),)
    else:
        classes, said = looked(files, shift)
        notes = notes + said
    return assembled("masks", root, pairs, classes, config, notes, extra)


def assembled(
    layout: str, root: Path, pairs: Sequence[Pair], classes: Classes, config: Config, notes: list[str], extra: tuple[Entry, ...] = ()
) -> Dataset:
    """The data set of pairs that were found, in the parts that they name or that the config asks for. Raises `DataError`."""
    if len(classes.names) < 2:
        what = f"{root}: the masks hold {len(classes.names)} class{'' if classes.names else 'es'}"
        raise DataError(what + "; there is nothing to tell apart", "are these the right masks?")
    names = [p.picture.name for p in pairs]
    places, said = arrange(names, [p.part for p in pairs], config.split, config.seed, config.test)
    channels = channels_of(config.channels, root, names)
    splits = {}
    for part, chosen in places.items():
        mine = [names[i] for i in chosen]
        truth = MaskReader(root, [pairs[i].truth.name for i in chosen], mine, classes)
        splits[part] = Split(mine, np.zeros(len(mine), np.int64), FileReader(root, mine, channels), truth)
    entries = sorted({e for p in pairs for e in (p.picture, p.truth)} | set(extra))
    return Dataset(layout, classes.names, splits, channels, tuple(entries), tuple(notes + said), "masks")


def find(root: Path) -> tuple[list[Pair], list[str]]:
    """The pairs below a folder, and notes on what was left out."""
    words = words_of(root)
    found = walk(root)
    items: dict[str, list[Item]] = {PICTURE: [], TRUTH: [], "": []}
    for entry in found.entries:
        role, item = place(entry, words)
        items[role].append(item)
    pairs, bare, spare = paired(items[PICTURE], items[TRUTH], "mask")
    notes = found.notes() + alone(bare, "picture", "a mask") + alone(spare, "mask", "a picture")
    return pairs, notes + alone(items[""], "picture", "a folder that says whether they are pictures or masks")


def nested(root: Path) -> list[str]:
    """Names of the folders in `root`, and in train/, val/ and test/."""
    first = [e for e in os.scandir(root) if e.is_dir()]
    return [e.name for e in first] + [e.name for f in first if f.name.lower() in PARTS for e in os.scandir(f.path) if e.is_dir()]


def word(name: str) -> bool:
    """Whether a folder's name says by itself that masks lie in it."""
    return name.lower() in ("masks", "mask", "segmentationclass", "labels", "label", "annotations", "gt", "groundtruth", "labelmaps")


def speaking(root: Path) -> bool:
    """Whether names of folders near the top say that there are pictures here, and masks there. Costs no look at the files."""
    words = words_of(root)
    return {PICTURE, TRUTH} <= {words[n.lower()].role for n in nested(root) if n.lower() in words}


def alike(root: Path, pair: Pair) -> bool:
    """Whether a file is the mask of another rather than a picture of another class: of one size, and nothing that was photographed."""
    try:
        picture, mask = header(root / pair.picture.name), header(root / pair.truth.name)
    except BadImage:
        return False
    return picture.size == mask.size and mask.format != "JPEG"
