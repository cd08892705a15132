"""Which layout a data set on disk has, where in the folder it begins, and what else it could be."""

import os
from pathlib import Path

from vitrail import catalog
from vitrail.data.annotations.pairs import read_name
from vitrail.data.dataset import Dataset, Entry
from vitrail.data.files import is_hidden, list_images
from vitrail.data.splits import find_part
from vitrail.errors import DataError, many
from vitrail.validation import as_path

DEEPEST = 4  # folders that hold one folder and nothing else
PAPERS = ("readme", "license", "licence", "copying", "changelog", "citation")  # files that are no data
PLAIN = ("images", "imagefolder")  # layouts that any folder of images fits
SPECIAL = {  # layouts that a general one fits too, without being another reading of the data
    "ade20k": ("masks",), "cityscapes": ("masks",), "voc_masks": ("masks", "voc"), "voc": ("masks",),
    "masks": ("voc_masks",),
}  # fmt: skip


def unwrap(path: str) -> tuple[str, list[str]]:
    """The folder that holds the data, where `path` and what is in it hold one folder and nothing else, and a note."""
    inner, top = path, as_path(path)
    for _ in range(DEEPEST):
        only = find_only_folder(as_path(inner))
        if only is None:
            break
        inner = str(only)
    return inner, [f"{top} holds one folder only: what is in {inner} was read"] if inner != path else []


def find_only_folder(folder: Path) -> Path | None:
    """The only folder in a folder, if there is nothing else, its name means nothing and it has folders too."""
    if not folder.is_dir():
        return None
    try:
        items = [e for e in list(os.scandir(folder)) if not is_hidden(e.name) and not e.name.lower().startswith(PAPERS)]
        if len(items) != 1 or items[0].is_symlink() or not items[0].is_dir():
            return None
        if find_part(items[0].name) or read_name(items[0].name).role:
            return None
        return Path(items[0].path) if any(e.is_dir() for e in list(os.scandir(items[0].path))) else None
    except OSError:  # a folder that cannot be listed is reported by its reader
        return None


def note_other_layouts(dataset: Dataset, path: str, follow: bool) -> list[str]:
    """Notes on the other layouts that the folder of a data set has, and on what is left out by reading it so."""
    root = as_path(path)
    if not path or not root.is_dir():
        return []
    skipped = (dataset.layout, *PLAIN, *SPECIAL.get(dataset.layout, ()))
    notes = [
        f"the folder fits {dataset.layout} and {other}, and was read as {dataset.layout}; --data.name {other} "
        f"reads it as {other}"
        for other in catalog.list_layouts(path)
        if other not in skipped
    ]
    if dataset.layout not in PLAIN:
        notes += note_classes(dataset, root, follow)
    return notes


def note_classes(dataset: Dataset, root: Path, follow: bool) -> list[str]:
    """A note on images in folders that look like classes, and that another layout would read."""
    used = {entry.name for entry in dataset.entries}
    try:
        rest = [e for e in list_images(root, follow=follow).entries if e.name not in used]
    except DataError:
        return []
    left = [name for e in rest if (name := class_name(e))]
    inside = {name for split in dataset.splits.values() for file in split.names if (name := class_above(file))}
    names = sorted({*left, *inside})
    if len(names) < 2:
        return []
    listed = ", ".join(names[:5]) + (", ..." if names[5:] else "")
    count = f", which leaves out {many(len(left), 'image')}" if left else ""
    return [
        f"the folder fits {dataset.layout} and imagefolder, and was read as {dataset.layout}{count} in folders that "
        f"may be classes ({listed}); --data.name imagefolder reads those"
    ]


def class_name(entry: Entry) -> str:
    """The name of the folder of an image, if it may be a class."""
    folder = os.path.basename(os.path.dirname(entry.name))
    meaning = read_name(folder)
    return folder if folder and not (meaning.role or meaning.part) else ""


def class_above(name: str) -> str:
    """The name of the folder, if it may be a class, that holds the folder of images in which an image is."""
    folders = [(folder, read_name(folder)) for folder in name.split("/")[:-1]]
    plain = [(folder, meaning) for folder, meaning in folders if not (meaning.part and not meaning.role)]
    has_role = [bool(meaning.role) for _, meaning in plain]
    return plain[0][0] if has_role[1:] and not has_role[0] and any(has_role) else ""
