"""Which file says what is true of which image: found by where the two lie and by what they are called. Shared by layouts."""

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
    "masks", "mask", "labels", "label", "annotations", "annotation", "segmentationclass", "segmentations", "segmentation", "gt",
    "groundtruth", "ground_truth", "targets", "target", "labelmaps",
)  # fmt: skip
ENDING = re.compile(
    r"[-_. ](masks?|seg(mentations?)?|labels?|gt|labelTrainIds|labelIds|annotations?|L)$", re.IGNORECASE
)
IMAGE_ENDING = re.compile(r"[-_. ](images?|img|leftImg8bit|rgb)$", re.IGNORECASE)


class Folder(NamedTuple):
    """What a folder's name says: whether images or truths lie below it, and the name that it has in both worlds, if any."""

    role: str
    name: str = ""


class Item(NamedTuple):
    """A file by what its path says: its part ("" where none is named) and the key under which its partner is found."""

    entry: Entry
    part: str
    key: str


class Pair(NamedTuple):
    """An image and the file that tells of it."""

    image: Entry
    annotation: Entry
    part: str


WORDS: Mapping[str, Folder] = {w: Folder(IMAGE) for w in IMAGE_WORDS} | {
    w: Folder(ANNOTATION) for w in ANNOTATION_WORDS
}


def find_folder_words(root: Path) -> dict[str, Folder]:
    """The words that say what lies in a folder, with those pairs of folders below `root` that are called X and X_masks or so."""
    words = dict(WORDS)
    there = {e.name.lower() for e in os.scandir(root) if e.is_dir() and not is_hidden(e.name)}
    for name in there:
        base = ENDING.sub("", name)
        if base != name and base in there and base not in words:
            words[base], words[name] = Folder(IMAGE, base), Folder(ANNOTATION, base)
    return words


def classify_file(entry: Entry, words: Mapping[str, Folder]) -> tuple[str, Item]:
    """The role of a file, "" where its path does not say, and the file as an item. The deepest folder that says something counts."""
    *folders, file = entry.name.split("/")
    role, part, kept = "", "", []
    for folder in folders:
        said = words.get(folder.lower())
        role = said.role if said else role
        name = said.name if said else folder
        if not part and name.lower() in PARTS:
            part = PARTS[name.lower()]
        elif name:
            kept.append(name)
    return role, Item(entry, part, "/".join([*kept, os.path.splitext(file)[0]]))


def match_pairs(
    images: Iterable[Item], annotations: Iterable[Item], what: str
) -> tuple[list[Pair], list[Item], list[Item]]:
    """The pairs, the images that are alone, and the truths that are alone. `what` a truth is called in messages.

    A partner has the same part and key; but for an ending such as _mask; and lies in any part where one of the two names none.
    Errors: `DataError` where two truths could belong to an image.
    """
    exact, loose, anywhere = defaultdict(list), defaultdict(list), defaultdict(list)
    annotations = list(annotations)
    for item in annotations:
        bare = ENDING.sub("", item.key)
        exact[item.part, item.key].append(item)
        loose[item.part, bare].append(item)
        anywhere[bare].append(item)
    pairs, lonely, used = [], [], set()
    for item in images:
        bare = IMAGE_ENDING.sub("", item.key)
        found = exact.get((item.part, item.key)) or loose.get((item.part, item.key)) or loose.get((item.part, bare))
        if not found:
            elsewhere = anywhere.get(item.key) or anywhere.get(bare) or []
            found = [other for other in elsewhere if not (item.part and other.part)]
        if not found:
            lonely.append(item)
            continue
        if len(found) > 1:
            names = " and ".join(other.entry.name for other in found[:2])
            raise DataError(
                f"{item.entry.name} has {len(found)} {what}s: {names}", "keep one of them, or give them different names"
            )
        used.add(found[0].entry.name)
        pairs.append(Pair(item.entry, found[0].entry, item.part or found[0].part))
    return pairs, lonely, [item for item in annotations if item.entry.name not in used]


def note_unmatched(items: Sequence[Item], what: str, lacking: str) -> list[str]:
    """A note on files without a partner."""
    return (
        [f"left out, as they lack {lacking}: {many(len(items), what)}, the first {items[0].entry.name}"]
        if items
        else []
    )


def list_files(root: Path, suffixes: tuple[str, ...]) -> list[Entry]:
    """Every file at any depth that ends so, by its path below `root`, in the order of the names. Links out of `root` are not followed."""
    home, found = os.path.realpath(root), []
    for folder, folders, files in os.walk(home):
        folders[:] = sorted(f for f in folders if not is_hidden(f))
        for file in files:
            path = os.path.join(folder, file)
            if (
                is_hidden(file)
                or not file.lower().endswith(suffixes)
                or not is_inside(os.path.realpath(path), home)
                or not os.path.isfile(path)
            ):
                continue
            stat = os.stat(path)
            found.append(Entry(os.path.relpath(path, home).replace(os.sep, "/"), stat.st_size, stat.st_mtime_ns))
    return sorted(found)


def make_entry(root: Path, path: Path) -> Entry:
    """A file below `root` that the data set is made of."""
    stat = path.stat()
    return Entry(os.path.relpath(path, root).replace(os.sep, "/"), stat.st_size, stat.st_mtime_ns)


def read_text(path: Path, limit: int) -> bytes:
    """The bytes of a small file. Errors: `DataError` where it is larger than `limit` bytes, or cannot be read."""
    try:
        if (size := path.stat().st_size) > limit:
            raise DataError(
                f"{path} is a file of {size:,} bytes, more than the limit of {limit:,}", "is it what its name says?"
            )
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {(error.strerror or str(error)).lower()}", "check that it is there and readable"
        ) from None
