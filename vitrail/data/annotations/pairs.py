"""Matches images with annotation files, by folders and file names. Shared by layouts."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from vitrail.data.annotations.lookalikes import find_lookalikes
from vitrail.data.dataset import Entry
from vitrail.data.files import is_hidden, walk_files
from vitrail.data.splits import find_part
from vitrail.errors import DataError, many

IMAGE, ANNOTATION = "image", "annotation"
IMAGE_WORDS = {
    "image", "images", "img", "imgs", "picture", "pictures", "photo", "photos", "input", "inputs", "rgb", "color",
    "colour", "original", "originals", "raw", "frame", "frames", "jpegimages", "jpgimages", "pngimages",
}  # fmt: skip
ANNOTATION_WORDS = {
    "mask", "masks", "msk", "msks", "label", "labels", "lbl", "lbls", "labelmap", "labelmaps", "labelids", "trainids",
    "ann", "anns", "annot", "annots", "anno", "annos", "annotation", "annotations", "annotated", "seg", "segs",
    "segmentation", "segmentations", "segmentationclass", "semantic", "gt", "gts", "groundtruth", "groundtruths",
    "truth", "target", "targets", "manual",
}  # fmt: skip
NOT_CLASSES = {"object", "objects", "instance", "instances", "panoptic", "overlay", "overlays", "vis", "depth"}
FILLERS = {
    "dir", "folder", "path", "file", "files", "set", "data", "png", "pngs", "jpg", "jpgs", "jpeg", "tif", "tiff",
    "class", "classes", "ground", "fine", "left", "bit", "raw", "id", "ids", "map", "maps", "1st", "st",
}  # fmt: skip
SHORT_PARTS = {"tr": "train", "va": "val", "vl": "val", "ts": "test", "te": "test"}  # beside a role: imagesTr, labelsTs
MOST = 32  # folders whose folders are looked at
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
GLUED = re.compile(rf"([a-z]+?)({'|'.join(sorted(ANNOTATION_WORDS | IMAGE_WORDS, key=len, reverse=True))})")
ENDINGS = "masks?|seg(?:mentations?)?|labels?|gt|labelTrainIds|labelIds|annot(?:ations?)?|matte|manual1"
ENDING = re.compile(rf"[-_. ](?:{ENDINGS}|L)$|(?:^|(?<=/))(?:{ENDINGS})[-_. ](?=[^/]+$)", re.IGNORECASE)
IMAGES = "images?|img|leftImg8bit|rgb|sat|training"
IMAGE_ENDING = re.compile(rf"[-_. ](?:{IMAGES})$|(?:^|(?<=/))(?:{IMAGES})[-_. ](?=[^/]+$)", re.IGNORECASE)


class Folder(NamedTuple):
    """The meaning of a folder's name: images, annotations or "" for neither; the name that the folders of images and of
    annotations have in common, if any; the part, if any."""

    role: str
    name: str = ""
    part: str = ""


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


STANDARD: Mapping[str, Folder] = {w: Folder(IMAGE) for w in IMAGE_WORDS - {"color", "colour", "raw"}} | {
    w: Folder(ANNOTATION) for w in ANNOTATION_WORDS - {"manual"}
}  # at any depth


def read_name(name: str) -> Folder:
    """The meaning of a folder's name by its words alone.

    >>> read_name("img_dir"), read_name("trainannot"), read_name("CameraSeg"), read_name("cat")
    (Folder(role='image', name='', part=''), Folder(role='annotation', name='', part='train'), \
Folder(role='annotation', name='camera', part=''), Folder(role='', name='cat', part=''))
    """
    words = [w.lower() for w in WORD.findall(name)]
    if name.lower() in IMAGE_WORDS | ANNOTATION_WORDS:
        words = [name.lower()]
    words = [w for word in words for w in split_glued(word)]
    annotation = any(w in ANNOTATION_WORDS for w in words) and not NOT_CLASSES & {*words}
    image = any(w in IMAGE_WORDS for w in words) and not NOT_CLASSES & {*words}
    if not (annotation or image):
        return Folder("", "" if find_part(name) else name.lower(), find_part(name))
    rest = [w for w in words if w not in IMAGE_WORDS | ANNOTATION_WORDS | FILLERS]
    part = find_part("".join(rest)) or SHORT_PARTS.get("".join(rest), "")
    return Folder(ANNOTATION if annotation else IMAGE, "" if part else "_".join(rest), part)


def split_glued(word: str) -> tuple[str, ...]:
    """The part and the role in a word such as "trainannot"; the word itself where there are none."""
    match = GLUED.fullmatch(word) if word not in IMAGE_WORDS | ANNOTATION_WORDS else None
    return (match[1], match[2]) if match and find_part(match[1]) else (word,)


def find_folder_words(root: Path) -> dict[str, Folder]:
    """Names of folders near the top of `root`, in lower case, and their meanings where they have one: by their names,
    and else by what is in them, where one folder has the masks of another."""
    words = read_folder_names(root)
    if not {IMAGE, ANNOTATION} <= {w.role for w in words.values()}:
        for image, mask in find_lookalikes(root, list_folders(root)):
            words[image.lower()], words[mask.lower()] = Folder(IMAGE, "="), Folder(ANNOTATION, "=")
    return words


def read_folder_names(root: Path) -> dict[str, Folder]:
    """Names of folders near the top of `root`, in lower case, and their meanings where they have one.

    Names that say so alone (images, img_dir, masks), and names that say so of each other (X and X_masks, train and
    trainannot, CameraRGB and CameraSeg).
    """
    words: dict[str, Folder] = {}
    first = list_folders(root)
    for names in (first, *(list_folders(root / name) for name in first[:MOST])):
        words |= {name: own for name, own in read_siblings(names).items() if name not in words}
    return words


def list_folders(folder: Path) -> list[str]:
    """The names of the folders in a folder."""
    return sorted(e.name for e in os.scandir(folder) if not is_hidden(e.name) and e.is_dir())


def read_siblings(names: Sequence[str]) -> dict[str, Folder]:
    """The meanings of folders that stand in one folder, by their names in lower case."""
    meanings = {name.lower(): read_name(name) for name in names}
    words = {name: own for name, own in meanings.items() if own.role and not own.name}
    for name, own in meanings.items():
        if own.role != ANNOTATION:
            continue
        for other, its in meanings.items():
            if its.role != ANNOTATION and (its.name, its.part) == (own.name, own.part) and (own.name or own.part):
                words[other], words[name] = its._replace(role=IMAGE), own
    for role, partner in ((IMAGE, ANNOTATION), (ANNOTATION, IMAGE)):  # satellite_images beside masks
        roles = {word.role for word in words.values()}
        if partner in roles and role not in roles:
            words |= {name: Folder(role, "", own.part) for name, own in meanings.items() if own.role == role}
    return words


def classify_file(entry: Entry, words: Mapping[str, Folder]) -> tuple[str, Item]:
    """The role of a file, "" if its path implies none, and the file as an item. The deepest known name counts."""
    *folders, file = entry.name.split("/")
    role, part, key_parts = "", "", []
    for folder in folders:
        known = words.get(folder.lower()) or STANDARD.get(folder.lower())
        role = known.role if known else role
        name, own_part = (known.name, known.part) if known else (folder, find_part(folder))
        if not part and own_part:
            part = own_part
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


def list_files(root: Path, suffixes: tuple[str, ...], below: str = "", follow: bool = False) -> list[Entry]:
    """Every file with one of the suffixes, at any depth under `root / below`, sorted by path below `root`. Links are
    followed as those of images are."""
    entries = []
    for path, item in walk_files(root, below, follow, {}):
        if item is not None and item.name.lower().endswith(suffixes) and item.is_file():
            stat = item.stat()
            entries.append(Entry(path, stat.st_size, stat.st_mtime_ns))
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
