"""Finds folders of masks by what is in them: images of the same names and sizes, with few values, beside photographs.

Shared by layouts.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from vitrail.data.annotations.mask_classes import is_two_valued
from vitrail.data.annotations.masks import read_values
from vitrail.data.decode import read_header
from vitrail.data.files import is_hidden
from vitrail.data.formats import image_suffixes
from vitrail.data.subset import evenly_spaced
from vitrail.errors import BadImage

SAMPLE = 5  # files of a folder that are read
MOST_FOLDERS = 24  # more are classes
MOST_VALUES = 64  # of a mask
SHARED = 0.8  # of the names of the smaller folder that both have


def find_lookalikes(root: Path, folders: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Names of folders in `root`, of images and of their masks, by content."""
    if not 2 <= len(folders) <= MOST_FOLDERS:
        return
    files = {name: list_stems(root / name) for name in folders}
    kinds: dict[str, bool | None] = {}
    for image in folders:
        for mask in folders:
            few = min(len(files[image]), len(files[mask]))
            same = sorted(files[image].keys() & files[mask].keys())
            if image == mask or few < 3 or len(same) < SHARED * few:
                continue
            sample = [same[i] for i in evenly_spaced(len(same), SAMPLE)]
            for name in {image, mask} - kinds.keys():
                kinds[name] = has_few_values([root / name / files[name][s] for s in sample if s in files[name]])
            if (
                kinds[image] is False
                and kinds[mask] is True
                and all(same_size(root / image / files[image][s], root / mask / files[mask][s]) for s in sample)
            ):
                yield image, mask


def list_stems(folder: Path) -> dict[str, str]:
    """The names of the images in a folder by their names without suffix."""
    suffixes = image_suffixes()
    return {
        os.path.splitext(e.name)[0]: e.name
        for e in os.scandir(folder)
        if os.path.splitext(e.name)[1].lower() in suffixes and not is_hidden(e.name) and e.is_file()
    }


def has_few_values(paths: Sequence[Path]) -> bool | None:
    """True where all files look like masks, False where none does, None where some do or one cannot be read."""
    try:
        answers = {looks_like_mask(path) for path in paths}
    except BadImage:
        return None
    return answers.pop() if len(answers) == 1 else None


def looks_like_mask(path: Path) -> bool:
    """Whether an image has few values, or almost only two. Errors: `BadImage`."""
    values = read_values(path, allow_jpeg=True)
    if values.dtype != np.uint8:
        return len(np.unique(values)) <= MOST_VALUES
    counts = np.bincount(values.ravel(), minlength=256)
    return int((counts > 0).sum()) <= MOST_VALUES or is_two_valued(counts)


def same_size(one: Path, other: Path) -> bool:
    """Whether two images have the same height and width; False where one cannot be read."""
    try:
        return read_header(one).size == read_header(other).size
    except BadImage:
        return False
