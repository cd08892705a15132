"""Matches images with annotation files, by folders and file names. Shared by layouts."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from vitrail.data.dataset import Entry
from vitrail.data.files import is_hidden, is_inside
from vitrail.data.splits import PARTS
from vitrail.errors import DataError, many

IMAGE, ANNOTATION = "image", "annotation"
IMAGE_WORDS = ("images", "image", "imgs", "img", "jpegimages", "pictures", "photos", "inputs", "input", "leftimg8bit")
ANNOTATION_WORDS = (
    "masks", "mask", "labels", "label", "annotations", "annotation", "segmentationclass", "segmentations",
    "segmentation", "gt", "groundtruth", "ground_truth", "targets", "target", "labelmaps",
)  # fmt: skip
ENDING = re.compile(
    r"[-_. ](masks?|seg(mentations?)?|labels?|gt|labelTrainIds|labelIds|annotations?|L)$", re.IGNORECASE
)
IMAGE_ENDING = re.compile(r"[-_. ](images?|img|leftImg8bit|rgb)$", re.IGNORECASE)


class Folder(NamedTuple):
    """The meaning of a folder's name: images or annotations, and the name that both folders have in common, if any."""

    role: str
    name: str = ""


class Item(NamedTuple):
    """A file with what its path implies: its split ("" for none) and the key shared with its partner."""

    entry: Entry
    part: str
    key: str


class Pair(NamedTuple):
    """An image and its annotation file."""

    image: Entry
    annotation: Entry
    part: str


WORDS: Mapping[str, Folder] = {w: Folder(IMAGE) for w in IMAGE_WORDS} | {
    w: Folder(ANNOTATION) for w in ANNOTATION_WORDS
}


def find_folder_words(root: Path) -> dict[str, Folder]:
    """Folder names and their roles, plus pairs of folders below `root` with names such as X and X_masks."""
    words = dict(WORDS)
    folders = {e.name.lower() for e in os.scandir(root) if e.is_dir() and not is_hidden(e.name)}
    for name in folders:
        base = ENDING.sub("", name)
        if base != name and base in folders and base not in words:
            words[base], words[name] = Folder(IMAGE, base), Folder(ANNOTATION, base)
    return words


def classify_file(entry: Entry, words: Mapping[str, Folder]) -> tuple[str, Item]:
    """The role of a file, "" if its path implies none, and the file as an item. The deepest known name counts."""
    *folders, file = entry.name.split("/")
    role, part, key_parts = "", "", []
    for folder in folders:
        known = words.get(folder.lower())
        role = known.role if known else role
        name = known.name if known else folder
        if not part and name.lower() in PARTS:
            part = PARTS[name.lower()]
        elif name:
            key_parts.append(name)
    return role, Item(entry, part, "/".join([*key_parts, os.path.splitext(file)[0]]))


def match_pairs(
    images: Iterable[Item], annotations: Iterable[Item], what: str
) -> tuple[list[Pair], list[Item], list[Item]]:
    """The pairs, the unmatched images and the unmatched annotations. what: name of an annotation in messages.

    Partners have the same split and key, except for an ending such as _mask; a split may be missing in one of the two.
    Errors: `DataError` where two annotations match one image.
    """
    exact, loose, anywhere = defaultdict(list), defaultdict(list), defaultdict(list)
    annotations = list(annotations)
    for item in annotations:
        stem = ENDING.sub("", item.key)
        exact[item.part, item.key].append(item)
        loose[item.part, stem].append(item)
        anywhere[stem].append(item)
    pairs, unmatched, used = [], [], set()
    for item in images:
        stem = IMAGE_ENDING.sub("", item.key)
        matches = exact.get((item.part, item.key)) or loose.get((item.part, item.key)) or loose.get((item.part, stem))
        if not matches:
            elsewhere = anywhere.get(item.key) or anywhere.get(stem) or []
            matches = [other for other in elsewhere if not (item.part and other.part)]
        if not matches:
            unmatched.append(item)
            continue
        if len(matches) > 1:
            names = " and ".join(other.entry.name for other in matches[:2])
            raise DataError(
                f"{item.entry.name} has {len(matches)} {what}s: {names}",
                "keep one of them, or give them different names",
            )
        used.add(matches[0].entry.name)
        pairs.append(Pair(item.entry, matches[0].entry, item.part or matches[0].part))
    return pairs, unmatched, [item for item in annotations if item.entry.name not in used]


def note_unmatched(items: Sequence[Item], what: str, lacking: str) -> list[str]:
    """A note on files without partner."""
    return (
        [f"left out, as they lack {lacking}: {many(len(items), what)}, the first {items[0].entry.name}"]
        if items
        else []
    )


def list_files(root: Path, suffixes: tuple[str, ...]) -> list[Entry]:
    """Every file with one of the suffixes, at any depth, sorted by path. Links out of `root` are skipped."""
    top, entries = os.path.realpath(root), []
    for folder, folders, files in os.walk(top):
        folders[:] = sorted(f for f in folders if not is_hidden(f))
        for file in files:
            path = os.path.join(folder, file)
            if (
                is_hidden(file)
                or not file.lower().endswith(suffixes)
                or not is_inside(os.path.realpath(path), top)
                or not os.path.isfile(path)
            ):
                continue
            stat = os.stat(path)
            entries.append(Entry(os.path.relpath(path, top).replace(os.sep, "/"), stat.st_size, stat.st_mtime_ns))
    return sorted(entries)


def make_entry(root: Path, path: Path) -> Entry:
    """The entry of a file below `root`."""
    stat = path.stat()
    return Entry(os.path.relpath(path, root).replace(os.sep, "/"), stat.st_size, stat.st_mtime_ns)


def read_text(path: Path, limit: int) -> bytes:
    """The bytes of a small file. Errors: `DataError` where it exceeds `limit` bytes or cannot be read."""
    try:
        if (size := path.stat().st_size) > limit:
            raise DataError(
                f"{path} is a file of {size:,} bytes, more than the limit of {limit:,}",
                "check that it is the right file",
            )
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {(error.strerror or str(error)).lower()}", "check that it exists and is readable"
        ) from None
