"""A folder of class folders, optionally below train/, val/ and test/: `images/train/cat/1.jpg` or
`images/cat/1.jpg`."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

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
from vitrail.datasets import idx, mini
from vitrail.errors import DataError

PARTS = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}  # case-insensitive
LAYOUT = "put images into one folder a class: <folder>/<class>/*.jpg, or <folder>/train/<class>/*.jpg"


@dataclass(frozen=True)
class Config:
    path: str = ""
    channels: int = 0  # 1, 3 or 4; 0: as the data
    held_out: float = 0.2  # fraction of each class held out as val if there is neither a val nor a test folder
    seed: int = 0  # of the random split


def matches(path: str) -> bool:
    """Any folder without IDX files; for a folder named mini use `./mini`."""
    return not mini.matches(path) and Path(path).expanduser().is_dir() and not idx.matches(path)


def build(config: Config) -> Dataset:
    """The images of a folder; classes are the names of the folders, "class 2" before "class 10". Raises `DataError`."""
    root = resolve_folder(config.path)
    parts, notes = _parts(root)
    contents = list_images(root)
    groups, loose = _group(contents.entries, parts)
    if not any(groups.values()):
        raise DataError(
            f"{root} has no images in class folders ({_describe_folder(root, contents)})",
            LAYOUT,
        )
    classes = _classes(root, parts, groups["train"])
    for part in groups.keys() - {"train"}:
        notes += _compare(root, part, {c for c, _ in groups[part]}, classes)
    entries = [e for group in groups.values() for _, e in group]
    if loose:
        notes.append(f"{loose:,} images outside any class folder were left out")
    if collisions := note_case_collisions(e.name for e in entries):
        notes.append(collisions)
    channels = detect_channels(config.channels, root, [e.name for e in entries])
    splits = {part: _split(root, group, classes, channels) for part, group in groups.items()}
    if set(splits) == {"train"} and config.held_out:
        all_images = splits["train"]
        is_held_out = hold_out(all_images.names, all_images.labels, config.held_out, config.seed)
        if is_held_out.any():
            splits = {"train": _select(all_images, ~is_held_out), "val": _select(all_images, is_held_out)}
            notes.append(held_out_note(int((~is_held_out).sum()), int(is_held_out.sum()), config.seed))
    return Dataset(
        "imagefolder", tuple(classes), splits, channels, tuple(sorted(entries)), tuple(contents.notes() + notes)
    )


def _folders(folder: Path) -> list[str]:
    return sorted((e.name for e in os.scandir(folder) if e.is_dir() and not is_hidden(e.name)), key=natural_key)


def _parts(root: Path) -> tuple[dict[str, str], list[str]]:
    """Split -> folder name, and notes. A folder "train" with images but no folders is a class (railway)."""
    folders = _folders(root)
    part_folders = [name for name in folders if name.lower() in PARTS and _folders(root / name)]
    parts: dict[str, str] = {}
    for name in part_folders:
        part = PARTS[name.lower()]
        if part in parts:
            raise DataError(
                f"{root} has both {parts[part]}/ and {name}/, two folders for the split {part}", "keep one of them"
            )
        parts[part] = name
    if not parts:
        return {"train": ""}, []
    if "train" not in parts:
        raise DataError(
            f"{root} has {', '.join(n + '/' for n in part_folders)} but no train/ with class folders in it", LAYOUT
        )
    others = [name for name in folders if name not in part_folders]
    return parts, [f"folders beside {parts['train']}/ were left out: {', '.join(others[:5])}"] if others else []


def _group(entries: list[Entry], parts: dict[str, str]) -> tuple[dict[str, list[tuple[str, Entry]]], int]:
    """For each split the images with their classes, and the number of images outside class folders."""
    groups: dict[str, list[tuple[str, Entry]]] = {
        part: [] for part in sorted(parts, key=["train", "val", "test"].index)
    }
    where = {folder: part for part, folder in parts.items()}
    loose = 0
    for entry in entries:
        head, _, rest = entry.name.partition("/") if "" not in where else ("", "", entry.name)
        if head in where:
            name, below, _ = rest.partition("/")
            if below:
                groups[where[head]].append((name, entry))
            else:
                loose += 1
    return groups, loose


def _classes(root: Path, parts: dict[str, str], train: list[tuple[str, Entry]]) -> list[str]:
    folder = root / parts["train"]
    classes = _folders(folder)
    filled = {name for name, _ in train}
    if empty := [c for c in classes if c not in filled]:
        names = ", ".join(f"{c}/" for c in empty[:5])
        raise DataError(f"{folder}: {len(empty)} class folders have no images: {names}", "remove them, or add images")
    if len(classes) < 2:
        raise DataError(f"{folder} has one class only ({classes[0]}); classification takes two or more", LAYOUT)
    return classes


def _compare(root: Path, part: str, present: set[str], classes: list[str]) -> list[str]:
    if extra := sorted(present - set(classes), key=natural_key):
        raise DataError(
            f"{root}: {part} has classes that train does not have: {', '.join(extra[:5])}",
            f"train has {', '.join(classes[:8])}{', ...' if classes[8:] else ''}; rename or remove folders of {part}",
        )
    missing = [c for c in classes if c not in present]
    return [f"{part} has no images of {len(missing)} classes: {', '.join(missing[:5])}"] if missing else []


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
    folders = _folders(root)
    text = f"{len(contents.entries):,} images outside class folders; " if contents.entries else ""
    text += "".join(f"{note}; " for note in contents.notes())
    return text + (f"folders: {', '.join(folders[:5])}" if folders else "no folders in it")
