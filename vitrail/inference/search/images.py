"""The images that are searched: those below a folder, or of any data set; and what shows that one has changed."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vitrail.assembly.data import open_data
from vitrail.data.dataset import Split, join_splits
from vitrail.data.files import FileReader, list_images
from vitrail.data.fingerprint import fingerprint
from vitrail.errors import DataError, UsageError
from vitrail.recipe import DataConfig
from vitrail.validation import as_path


@dataclass(frozen=True)
class SearchedImages:
    """split: the images, without labels. stamps: int64 [N 2], size and time of each file; of a data set one hash of all
    that it is made of, so that it is embedded again where any of it changes. location: what the index is named after.
    shown: of each, what is printed."""

    split: Split
    stamps: np.ndarray
    location: str
    shown: Sequence[str]
    notes: tuple[str, ...] = ()


def open_images(where: str, channels: int) -> SearchedImages:
    """The images of a folder, or of what `--data` takes. Errors: `DataError`, `UsageError`."""
    path = as_path(where)
    if path.is_dir() and (contents := list_images(path)).entries and not any(path.glob("*.tar")):
        names = [entry.name for entry in contents.entries]
        stamps = np.array([entry[1:] for entry in contents.entries], np.int64).reshape(-1, 2)
        split = Split(names, np.zeros(len(names), np.int64), FileReader(path.resolve(), names, channels))
        return SearchedImages(split, stamps, f"folder {path.resolve()}", [str(path / name) for name in names])
    try:
        dataset, _ = open_data(DataConfig("", {"path": where}))
    except (DataError, UsageError) as error:
        if path.is_dir() and not any(path.glob("*.tar")):
            what = f"there is no image in {path}"
            raise DataError(what, "give a folder of images, or what --data takes") from None
        raise DataError(error.what, error.fix) from None
    split = join_splits(list(dataset.splits.values()))
    digest = hashlib.sha256(fingerprint(dataset.entries).encode())
    for one in dataset.splits.values() if not len(dataset.entries) else ():  # in memory
        for i in range(len(one)):
            digest.update(np.ascontiguousarray(one.read(i)).tobytes())
    stamp = int.from_bytes(digest.digest()[:7], "little")
    stamps = np.tile(np.array([[stamp, dataset.channels]], np.int64), (len(split), 1))
    location = f"data {path.resolve() if path.exists() else where}"
    shown, folder = list(split.names), path if path.is_dir() else path.parent  # of a table
    if path.exists() and shown and (folder / shown[0]).is_file():
        shown = [str(folder / name) for name in shown]
    return SearchedImages(split, stamps, location, shown, tuple(dataset.notes))
