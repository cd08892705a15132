"""A folder of class folders, optionally below train/, val/ and test/, or above them: `images/train/cat/1.jpg`,
`images/cat/1.jpg`, `images/cat/train/1.jpg`."""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vitrail.data.annotations.lookalikes import SAMPLE, has_few_values
from vitrail.data.annotations.pairs import ANNOTATION, IMAGE, Folder, read_folder_names
from vitrail.data.dataset import Dataset, Entry, Split
from vitrail.data.files import (
    FileReader,
    FolderContents,
    detect_channels,
    held_out_note,
    hold_out,
    is_hidden,
    list_images,
    natural_key,
    note_case_collisions,
    resolve_folder,
)
from vitrail.data.splits import ORDER, find_part
from vitrail.data.subset import evenly_spaced
from vitrail.datasets import idx, mini
from vitrail.errors import DataError, many

LAYOUT = "put images into one folder a class: <folder>/<class>/*.jpg, or <folder>/train/<class>/*.jpg"


@dataclass(frozen=True)
class Config:
    path: str = ""
    channels: int = 0  # 1, 3 or 4; 0: as the data
    held_out: float = 0.2  # fraction of each class held out as val if there is neither a val nor a test folder
    seed: int = 0  # of the random split
    follow_links: bool = False  # symbolic links out of the folder too
    whole: bool = False  # for evaluation: any classes, one is enough


@dataclass
class ClassFolders:
    """Images by part, each with its class, the folders of classes that hold none, and what was left out."""

    groups: dict[str, list[tuple[str, Entry]]] = field(default_factory=dict)
    empty: dict[str, list[str]] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=dict)  # names of images by the reason

    def add(self, part: str, name: str, entry: Entry) -> None:
        """An image of a class."""
        self.groups.setdefault(part, []).append((name, entry))

    def leave_out(self, reason: str, entry: Entry) -> None:
        self.left_out.setdefault(reason, []).append(entry.name)

    def notes(self) -> list[str]:
        """What was left out, each with its count, its kind and its reason."""
        own = [
            f"left out, as {why}: {many(len(names), 'image')}, the first {names[0]}"
            for why, names in self.left_out.items()
        ]
        for part, names in self.empty.items():
            where = f" of {part}" if set(self.groups) != {"train"} else ""
            listed = ", ".join(f"{n}/" for n in names[:5]) + (", ..." if names[5:] else "")
            own.append(f"left out, as they hold no images: {many(len(names), 'folder')}{where} ({listed})")
        return own


def matches(path: str) -> bool:
    """Any folder without IDX files; for a folder named mini use `./mini`."""
    return not mini.matches(path) and Path(path).expanduser().is_dir() and not idx.matches(path)


def build(config: Config) -> Dataset:
    """The images of a folder; classes are the names of the folders, "class 2" before "class 10". Raises `DataError`."""
    root = resolve_folder(config.path)
    contents = list_images(root, follow=config.follow_links)
    found, notes = read_folders(root, contents)
    if not found.groups:
        raise DataError(f"{root} has no images in class folders ({_describe_folder(root, contents)})", LAYOUT)
    classes, lacking = _classes(root, found, config.whole)
    notes += lacking + found.notes()
    entries = [e for group in found.groups.values() for _, e in group]
    if collisions := note_case_collisions(e.name for e in entries):
        notes.append(collisions)
    channels = detect_channels(config.channels, root, [e.name for e in entries])
    splits = {part: _split(root, found.groups[part], classes, channels) for part in ORDER if part in found.groups}
    if set(splits) == {"train"} and config.held_out:
        all_images = splits["train"]
        is_held_out = hold_out(all_images.names, all_images.labels, config.held_out, config.seed)
        if is_held_out.any():
            splits = {"train": _select(all_images, ~is_held_out), "val": _select(all_images, is_held_out)}
            notes.append(held_out_note(int((~is_held_out).sum()), int(is_held_out.sum()), config.seed))
    entries.sort()
    notes = contents.notes() + notes
    return Dataset("imagefolder", tuple(classes), splits, channels, entries, tuple(notes), visited=contents.visited)


def read_folders(root: Path, contents: FolderContents) -> tuple[ClassFolders, list[str]]:
    """The images in their parts and classes, and notes. Errors: `DataError` for folders that are no classes."""
    links = {path for own in contents.links.values() for path in own}
    parts, notes = _parts(root, links)
    found = ClassFolders()
    if parts:
        where = {folder: part for part, folder in parts.items()}
        for entry in contents.entries:
            head, _, rest = entry.name.partition("/")
            name, inside, _ = rest.partition("/")
            if head in where and inside:
                found.add(where[head], name, entry)
            else:
                found.leave_out("they are in no class folder" if head in where else "they are beside the parts", entry)
        for part, folder in parts.items():
            _note_empty(found, part, _folders(root / folder, f"{folder}/", links))
        if gone := [part for part in parts if part not in found.groups]:
            notes.append(f"{' and '.join(f'{parts[p]}/' for p in gone)} holds no images: it is as if it were not there")
        return found, notes
    annotations, flat = _other_folders(root, links, contents.entries)
    below = _parts_below(contents.entries)
    for entry in contents.entries:
        name, *inner = entry.name.split("/")
        if not inner:
            found.leave_out("they are in no class folder", entry)
        elif name in flat:
            found.leave_out(flat[name], entry)
        elif inner[0] in annotations and inner[1:]:
            found.leave_out(f"folders named {inner[0]} beside images hold annotations, no classes", entry)
        else:
            found.add(below.get(inner[0], "train") if inner[1:] else "train", name, entry)
    _note_empty(found, "train", [f for f in _folders(root, "", links) if f not in flat])
    return found, notes


def _folders(folder: Path, prefix: str, links: set[str]) -> list[str]:
    """The folders in a folder, but for links that are not followed."""
    names = [
        e.name for e in os.scandir(folder) if e.is_dir() and not is_hidden(e.name) and prefix + e.name not in links
    ]
    return sorted(names, key=natural_key)


def _note_empty(found: ClassFolders, part: str, folders: Sequence[str]) -> None:
    filled = {name for name, _ in found.groups.get(part, [])}
    if (empty := [name for name in folders if name not in filled]) and filled:
        found.empty[part] = empty


def _parts(root: Path, links: set[str]) -> tuple[dict[str, str], list[str]]:
    """Split -> folder name, and notes. A folder "train" with images but no folders is a class (railway)."""
    folders = _folders(root, "", links)
    part_folders = [name for name in folders if find_part(name) and _folders(root / name, f"{name}/", links)]
    parts: dict[str, str] = {}
    for name in part_folders:
        part = find_part(name)
        if part in parts:
            raise DataError(
                f"{root} has both {parts[part]}/ and {name}/, two folders for the split {part}", "keep one of them"
            )
        parts[part] = name
    others = [name for name in folders if name not in part_folders]
    beside = f"folders beside {next(iter(parts.values()), '')}/ were left out: {', '.join(others[:5])}"
    return {part: parts[part] for part in ORDER if part in parts}, [beside] if parts and others else []


def _parts_below(entries: Sequence[Entry]) -> dict[str, str]:
    """The parts by the names of folders in class folders, as in cat/train and cat/test; empty where there are none of
    them."""
    seconds = {pieces[1] for e in entries if len(pieces := e.name.split("/")) > 2}
    parts = {name: find_part(name) for name in seconds if find_part(name)}
    return parts if set(parts.values()) - {"train"} else {}


def _other_folders(root: Path, links: set[str], entries: Sequence[Entry]) -> tuple[set[str], dict[str, str]]:
    """Names of folders in class folders that hold annotations, and folders that are no classes, with the reason.

    Errors: `DataError` where the folders are parts without classes, or images with annotations.
    """
    folders = _folders(root, "", links)
    filled: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        head, _, rest = entry.name.partition("/")
        filled[head].add(rest.partition("/")[0] if "/" in rest else "")
    named = [name for name in folders if find_part(name) and name in filled]
    if len({find_part(name) for name in named}) > 1:
        raise DataError(
            f"{root}: {', '.join(f'{n}/' for n in named)} are named as parts, and hold images but no class folders",
            f"{LAYOUT};\nor name the classes in a .csv with columns path,label,split",
        )
    words = read_folder_names(root)
    masks = _mask_folders(root, folders, words, entries)
    if masks and len(set(filled) - {"", *masks}) < 2:
        if all(words[name.lower()].name for name in masks):
            masks = {}  # face/ and face_mask/ may be classes
        else:
            listed = " and ".join(f"{name}/" for name in masks)
            raise DataError(
                f"{root}: {listed} look like images and their annotations, not like classes",
                "masks need the names of their images, labels of YOLO are .txt; if they are classes, rename them",
            )
    inner = {name for own in filled.values() for name in own if words.get(name.lower(), ("",))[0] == ANNOTATION}
    paired = any(words[n.lower()].role == IMAGE for own in filled.values() for n in own if n.lower() in words)
    unlabelled = [name for name in named if find_part(name) == "test" or name.lower() in ("val", "validation")]
    flat = {
        name: f"{name}/ is named as a part and has no class folders (rename it if it is a class)" for name in unlabelled
    }
    return inner if paired else set(), masks | flat


def _mask_folders(
    root: Path, folders: Sequence[str], words: Mapping[str, Folder], entries: Sequence[Entry]
) -> dict[str, str]:
    """Folders of annotations and of their images, and what they are; empty where the files are no masks."""
    known = [(name, words[name.lower()]) for name in folders if name.lower() in words]
    found: dict[str, str] = {}
    for mask, meaning in known:
        images = [name for name, other in known if other == meaning._replace(role=IMAGE)]
        files = [root / e.name for e in entries if e.name.startswith(f"{mask}/")]
        if meaning.role != ANNOTATION or not images:
            continue
        if not meaning.name or (files and has_few_values([files[i] for i in evenly_spaced(len(files), SAMPLE)])):
            what = f"{mask}/ holds the masks of {images[0]}/"
            found |= {images[0]: what, mask: what}
    return found


def _classes(root: Path, found: ClassFolders, whole: bool) -> tuple[list[str], list[str]]:
    """The classes of train, or of all parts where there is no train or `whole` is set, and notes on parts that lack
    some of them."""
    by_part = {part: {name for name, _ in group} for part, group in found.groups.items()}
    every = set().union(*by_part.values())
    classes = sorted(every if whole else by_part.get("train") or every, key=natural_key)
    if len(classes) < 2 and not whole:
        left = f" ({found.notes()[0]})" if found.notes() else ""
        fix = f"{LAYOUT}; --data.name images reads images without labels"
        raise DataError(f"{root} has one class only ({classes[0]}){left}; classification takes two or more", fix)
    notes = []
    for part, present in by_part.items():
        if extra := sorted(present - set(classes), key=natural_key):
            listed = f"{', '.join(classes[:8])}{', ...' if classes[8:] else ''}"
            raise DataError(
                f"{root}: {part} has classes that train does not have: {', '.join(extra[:5])}",
                f"train has {listed}; rename or remove folders of {part}",
            )
        if missing := [c for c in classes if c not in present]:
            notes.append(f"{part} has no images of {len(missing)} classes: {', '.join(missing[:5])}")
    return classes, notes


def _split(root: Path, group: list[tuple[str, Entry]], classes: list[str], channels: int) -> Split:
    index = {name: i for i, name in enumerate(classes)}
    names = [entry.name for _, entry in group]
    return Split(names, np.array([index[c] for c, _ in group], np.int64), FileReader(root, names, channels))


def _select(split: Split, chosen: np.ndarray) -> Split:
    """Like `split.select`, but the reader has the selected names only, which is less to send to workers."""
    part = split.select(np.flatnonzero(chosen))
    assert isinstance(split.read, FileReader)
    return Split(part.names, part.labels, FileReader(split.read.root, part.names, split.read.channels))


def _describe_folder(root: Path, contents: FolderContents) -> str:
    folders = _folders(root, "", {path for own in contents.links.values() for path in own})
    text = f"{len(contents.entries):,} images outside class folders; " if contents.entries else ""
    text += "".join(f"{note}; " for note in contents.notes())
    return text + (f"folders: {', '.join(folders[:5])}" if folders else "no folders in it")
