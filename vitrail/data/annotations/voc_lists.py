"""VOC's lists of images, in ImageSets/Main and ImageSets/Segmentation."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from vitrail.data.annotations.pairs import read_text
from vitrail.data.splits import ORDER, find_part
from vitrail.errors import many

LARGEST = 2**24  # bytes of a list
MISSING = ("missing, but in the lists", "image")  # the note, and what is counted


def find_lists(folder: Path) -> dict[str, Path]:
    """The lists of images of each part in a folder, by part: train.txt, val.txt, test.txt and the like; "trainval" for
    the list of both, where they have none of their own."""
    lists: dict[str, Path] = {}
    for path in sorted(folder.glob("*.txt")) if folder.is_dir() else []:
        is_both = path.stem.lower() == "trainval"
        part = "trainval" if is_both else find_part(path.stem)
        if part:
            lists.setdefault(part, path)
    if {"train", "val"} & lists.keys():
        lists.pop("trainval", None)
    return {part: lists[part] for part in ("trainval", *ORDER) if part in lists}


def read_lists(folder: Path, names: Sequence[str], lacking: tuple[str, ...] = MISSING) -> tuple[list[str], list[str]]:
    """The split of each image by the lists in a folder; empty without lists. VOC 2007 has a test list, 2012 has none.

    A line is the name of an image, with or without folder and ending, and in lists of a class a flag after it. An image
    in several lists is in the last of train, val and test. lacking: of the note on names that are none of `names`.
    """
    parts: dict[str, str] = {}
    notes: list[str] = []
    stems = {os.path.splitext(name)[0] for name in names}
    known = stems | {stem.rpartition("/")[2] for stem in stems}
    for part, path in find_lists(folder).items():
        lines = read_text(path, LARGEST).decode("utf-8-sig", errors="replace").splitlines()
        found = [stem_of(line.strip(), known) for line in lines if line.strip()]
        if both := [stem for stem in found if stem in parts]:
            own = "train" if part == "trainval" else part
            notes.append(f"in more than one list: {many(len(both), 'image')}, the first {both[0]}: used as {own}")
        parts |= dict.fromkeys(found, "train" if part == "trainval" else part)
    if missing := sorted(parts.keys() - known):
        notes.append(f"{lacking[0]}: {many(len(missing), *lacking[1:])}, the first {missing[0]}")
    by_name = [(os.path.splitext(name)[0], os.path.splitext(name)[0].rpartition("/")[2]) for name in names]
    return [parts.get(stem, parts.get(short, "")) for stem, short in by_name] if parts else [], notes


def stem_of(line: str, known: set[str]) -> str:
    """The name of the image in a line of a list."""
    whole = line.replace("\\", "/")
    for text in (whole, re.sub(r"\s+-?[01]$", "", whole)):
        for stem in (text, os.path.splitext(text)[0]):
            for name in (stem, stem.rpartition("/")[2]):
                if name in known:
                    return name
    return re.sub(r"\s+-?[01]$", "", whole)
