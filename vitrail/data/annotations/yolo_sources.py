"""Where the images of a YOLO data set are: in the folders and lists that data.yaml names for each part, or below its
folder."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from vitrail.data.annotations.pairs import make_entry, read_text
from vitrail.data.dataset import Entry
from vitrail.data.files import is_inside, list_images, suggest_path
from vitrail.data.splits import ORDER, find_part
from vitrail.errors import DataError, many

LARGEST = 2**28  # bytes of a list of files
EXPECTED = (".txt", ".yaml", ".yml", ".names", ".labels", ".cache", ".data")  # files that are no images and no riddle


class Place(NamedTuple):
    """A folder of images or a list of files, as data.yaml names it for a part."""

    part: str
    path: Path
    text: str


@dataclass
class Sources:
    """The images, named below `root`, and their parts by name; empty where data.yaml names none. lists: files that list
    images. is_whole: everything below `root` belongs to the data."""

    root: Path
    images: list[Entry]
    parts: dict[str, str] = field(default_factory=dict)
    lists: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    is_whole: bool = True

    def label_folders(self, image: str) -> set[str]:
        """The folders, below `root`, that may hold the label file of an image, if they exist."""
        folders = {os.path.dirname(name) for name in label_names(image)}
        return {folder for folder in folders if (self.root / folder).is_dir()}


def label_names(image: str) -> Iterator[str]:
    """The paths that the label file of an image may have: in labels/ for images/, and beside it."""
    stem = os.path.splitext(image)[0]
    pieces = stem.split("/")
    for i in reversed(range(len(pieces) - 1)):
        if pieces[i].lower() in ("images", "image", "imgs", "img", "jpegimages"):
            for word in ("labels", "label", "Labels"):
                yield "/".join([*pieces[:i], word, *pieces[i + 1 :]]) + ".txt"
            break
    yield f"{stem}.txt"


def find_sources(folder: Path, settings: Path | None, data_yaml: dict[str, list[str]], follow: bool) -> Sources:
    """The images of a data set. folder: that of data.yaml, resolved. Errors: `DataError` for a missing folder."""
    base, notes = find_base(folder, data_yaml)
    places, missing = find_places(base, folder, settings, data_yaml)
    notes += missing
    if not places or settings is None:
        contents = list_images(base, follow=follow)
        return Sources(base, contents.entries, notes=[*notes, *contents.notes(EXPECTED)])
    listed = {place: read_list(place, (base, folder)) for place in places if place.path.is_file()}
    paths = [place.path for place in places if place not in listed]
    paths += [Path(os.path.dirname(file)) for files, _ in listed.values() for file in files]
    inside = all(is_inside(os.path.join(p, ""), str(base)) or p == base for p in paths)
    root = base if inside else common_folder([base, *paths], settings)
    sources = Sources(root, [], lists=list({place.path: None for place in listed}), notes=notes, is_whole=inside)
    entries: dict[str, Entry] = {}
    by_part: dict[str, dict[str, None]] = {part: {} for part in ORDER}
    for place in places:
        own, left = take_listed(root, place, *listed[place]) if place in listed else take_folder(root, place, follow)
        sources.notes += left
        entries |= {e.name: e for e in own}
        by_part[place.part] |= dict.fromkeys(e.name for e in own)
        if not own:
            sources.notes.append(f"{place.part}: {place.text} holds no images: it is as if it were not there")
    sources.parts, shared = one_part_each(by_part)
    sources.images = sorted(entries.values())
    if inside:
        contents = list_images(root, follow=follow)
        sources.notes += contents.notes(EXPECTED)
        rest = [e for e in contents.entries if e.name not in entries]
        if rest:
            count = f"{many(len(rest), 'image')}, the first {rest[0].name}"
            sources.notes.append(f"left out, as {settings.name} names other folders: {count}")
    sources.notes += shared
    return sources


def common_folder(paths: Sequence[Path], settings: Path) -> Path:
    """The folder that holds all of them. Errors: `DataError` where they are on different drives."""
    try:
        return Path(os.path.commonpath(paths))
    except ValueError:
        raise DataError(f"{settings} names folders on different drives", "put them on one") from None


def find_base(folder: Path, data_yaml: dict[str, list[str]]) -> tuple[Path, list[str]]:
    """The folder that the paths in a data.yaml begin at: `path` if it exists, else its own folder; and a note."""
    for text in data_yaml.get("path", []):
        base = folder / Path(text.replace("\\", "/")).expanduser()
        if base.is_dir():
            return base.resolve(), []
        return folder, [f"path: {text[:120]} does not exist: the other paths were taken from {folder}"]
    return folder, []


def find_places(
    base: Path, folder: Path, settings: Path | None, data_yaml: dict[str, list[str]]
) -> tuple[list[Place], list[str]]:
    """The folders and lists of every part, and notes on those that do not exist. Errors: `DataError` for training
    images that do not exist."""
    places, notes = [], []
    for key, texts in data_yaml.items():
        part = find_part(key)
        for text in texts if part else []:
            clean = text.replace("\\", "/")
            stripped = re.sub(r"^(\.\.?/)+", "", clean)
            tried = [
                start / name for name in dict.fromkeys((clean, stripped)) for start in dict.fromkeys((base, folder))
            ]
            path = next((p for p in tried if p.is_dir() or p.is_file()), None)
            if path is not None:
                places.append(Place(part, path.resolve(), text))
            elif part == "train":
                where = f"{base} has no such folder" if not os.path.isabs(clean) else "there is no such folder"
                raise DataError(f"{settings} names {text[:200]}, and {where}", suggest_path(tried[0]))
            else:
                notes.append(f"left out, as it does not exist: {part}: {text[:120]}")
    return places, notes


def read_list(place: Place, starts: Sequence[Path]) -> tuple[list[str], list[str]]:
    """The absolute paths of the images in a list of files that exist, and the lines of the others."""
    lines = read_text(place.path, LARGEST).decode("utf-8-sig", errors="surrogateescape").splitlines()
    found, missing = [], []
    for line in dict.fromkeys(line.strip().replace("\\", "/") for line in lines):
        if not line or line.startswith("#"):
            continue
        tried = [os.path.normpath(os.path.join(start, line)) for start in (place.path.parent, *starts)]
        file = next((path for path in tried if "\0" not in path and os.path.isfile(path)), None)
        if file:
            found.append(os.path.realpath(file))
        else:
            missing.append(line)
    return found, missing


def take_listed(root: Path, place: Place, files: list[str], missing: list[str]) -> tuple[list[Entry], list[str]]:
    """The images of a list of files, and a note on those that do not exist. Errors: `DataError` where none does."""
    if missing and not files:
        raise DataError(
            f"{place.path}: none of its {many(len(missing), 'image')} exists, such as {missing[0][:200]}",
            f"paths in it begin at {place.path.parent}, or are absolute",
        )
    count = f"{many(len(missing), 'image')} in {place.text}, the first {missing[0][:200]}" if missing else ""
    notes = [f"left out, as they do not exist: {count}"] if missing else []
    return [make_entry(root, Path(file)) for file in files], notes


def take_folder(root: Path, place: Place, follow: bool) -> tuple[list[Entry], list[str]]:
    """The images in a folder, named below `root`, and notes."""
    below = os.path.relpath(place.path, root).replace(os.sep, "/")
    contents = list_images(root, "" if below == "." else below, follow)
    return contents.entries, []


def one_part_each(by_part: dict[str, dict[str, None]]) -> tuple[dict[str, str], list[str]]:
    """The part of each image, and notes on images that are in several: test counts before val, val before train, but
    where that would leave nothing to train on."""
    notes: list[str] = []
    train, val, test = (by_part[part] for part in ORDER)
    if train and not train.keys() - val.keys():
        val = {name: None for name in val if name not in train}
        rest = "" if val else ", of which val is held out at random"
        notes.append(f"in train and in val: {many(len(train), 'image')}: used as train{rest}")
    pairs = (("train", "val", train, val), ("train", "test", train, test), ("val", "test", val, test))
    for first, second, own, names in pairs:
        if both := [name for name in own if name in names]:
            count = f"{many(len(both), 'image')}, the first {both[0]}"
            notes.append(f"in {first} and in {second}: {count}: used as {second}")
    return dict.fromkeys(train, "train") | dict.fromkeys(val, "val") | dict.fromkeys(test, "test"), notes
