"""A folder of images without labels: `photos/*.jpg`, optionally below train/, val/ and test/. Named as the layout
(`--data.name images`) it reads every image of a folder, whatever its folders are called."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vitrail.data.dataset import Dataset, Entry, Split
from vitrail.data.files import (
    FileReader,
    detect_channels,
    held_out_note,
    hold_out,
    is_hidden,
    list_images,
    note_case_collisions,
    resolve_folder,
)
from vitrail.data.formats import image_suffixes
from vitrail.data.splits import ORDER, find_part
from vitrail.errors import DataError
from vitrail.validation import Count, Fraction

NOTE = (
    "these images have no labels: tasks that need none learn from them (--task masked_autoencoding is the default); "
    "for classes put them into one folder a class: <folder>/<class>/*.jpg"
)


@dataclass(frozen=True)
class Config:
    path: str = ""
    channels: Count = 0  # 1, 3 or 4; 0: as the data
    held_out: Fraction = 0.1  # fraction held out as val if there is neither a val nor a test folder
    seed: Count = 0  # of the random split
    follow_links: bool = False  # symbolic links out of the folder too


def matches(path: str) -> bool:
    """A folder with images in it and in none of its folders; or whose folders with images are all named as parts, and
    hold no folders of classes."""
    root = Path(path).expanduser()
    try:
        if not root.is_dir():
            return False
        folders = [Path(e.path) for e in list(os.scandir(root)) if not is_hidden(e.name) and e.is_dir()]
        filled = [folder for folder in folders if has_images(folder, deep=True)]
        if has_images(root):
            return not filled
        flat = [folder for folder in filled if find_part(folder.name) and not has_images(folder, deep=True, own=False)]
        return bool(flat) and len(flat) == len(filled) and any(find_part(f.name) == "train" for f in flat)
    except OSError:
        return False


def has_images(folder: Path, deep: bool = False, own: bool = True) -> bool:
    """Whether a folder has an image. deep: or one of its folders; own: images in the folder itself count."""
    below = []
    for item in list(os.scandir(folder)):
        if is_hidden(item.name):
            continue
        if own and os.path.splitext(item.name)[1].lower() in image_suffixes():
            return True
        if deep and item.is_dir(follow_symlinks=False):
            below.append(Path(item.path))
    return any(has_images(inner, True) for inner in below)


def build(config: Config) -> Dataset:
    """All images of a folder, in the parts that its folders name. Raises `DataError`."""
    root = resolve_folder(config.path)
    contents = list_images(root, follow=config.follow_links)
    if not contents.entries:
        raise DataError(f"{root} has no images", "".join(f"{note}; " for note in contents.notes()) or "add some")
    parts: dict[str, list[Entry]] = {}
    for entry in contents.entries:
        head, _, inside = entry.name.partition("/")
        parts.setdefault((find_part(head) if inside else "") or "train", []).append(entry)
    notes = [*contents.notes(), NOTE]
    if collisions := note_case_collisions(e.name for e in contents.entries):
        notes.append(collisions)
    channels = detect_channels(config.channels, root, [e.name for e in contents.entries])
    splits = {part: unlabelled(root, parts[part], channels) for part in ORDER if part in parts}
    if set(splits) == {"train"} and config.held_out:
        every = splits["train"]
        is_held_out = hold_out(every.names, every.labels, config.held_out, config.seed)
        if is_held_out.any():
            entries = parts["train"]
            chosen = {"train": ~is_held_out, "val": is_held_out}
            splits = {
                part: unlabelled(root, [entries[i] for i in np.flatnonzero(mask)], channels)
                for part, mask in chosen.items()
            }
            notes.append(held_out_note(len(splits["train"]), len(splits["val"]), config.seed))
    entries = sorted(contents.entries)
    return Dataset("images", (), splits, channels, entries, tuple(notes), kind="none", visited=contents.visited)


def unlabelled(root: Path, entries: list[Entry], channels: int) -> Split:
    names = [entry.name for entry in entries]
    return Split(names, np.zeros(len(names), np.int64), FileReader(root, names, channels))
