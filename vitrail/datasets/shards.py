"""Tar shards with an index, as `vitrail pack` writes them: in a folder, or in a store at http(s)://HOST/PATH/."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vitrail.data.dataset import Dataset
from vitrail.data.shards.http import HttpStore, fetch_index, is_url
from vitrail.data.shards.index import NAME, open_index
from vitrail.data.shards.local import check_shards
from vitrail.data.shards.store import LocalStore
from vitrail.errors import DataError


@dataclass(frozen=True)
class Config:
    path: str = ""
    annotation: Literal["", "classes", "masks", "boxes", "captions"] = ""  # empty: what the shards were packed for
    sha256: str = ""  # of index.safetensors, as vitrail pack prints it; "" takes the one that is there
    cache: str = ""  # folder that pieces of a store are kept in; "": in the cache of vitrail; "none": not kept


def matches(path: str) -> bool:
    """A folder with an index of shards, or with tar files alone; an address."""
    folder = Path(path).expanduser()
    return is_url(path) or (folder / NAME).is_file() or (folder.is_dir() and any(folder.glob("*.tar")))


def build(config: Config) -> Dataset:
    """The images of the index. Errors: `DataError`."""
    if is_url(config.path):
        store = HttpStore(config.path.rstrip("/") + "/", config.cache)
        return open_index(fetch_index(store, config.sha256), store, config.annotation)
    folder = Path(config.path).expanduser()
    if not (folder / NAME).is_file():
        raise DataError(f"{folder} has tar files and no index", f"vitrail pack {folder} writes the index")
    folder = folder.resolve()
    dataset = open_index(folder / NAME, LocalStore(folder), config.annotation)
    check_shards(folder, dataset.entries, config.sha256)
    return dataset
