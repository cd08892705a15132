"""Packs a data set into tar shards with an index, whole or not at all."""

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitrail.assembly.data import open_data
from vitrail.data.files import suggest_path
from vitrail.data.index.arrays import encode_arrays
from vitrail.data.shards.index import NAME, Shard
from vitrail.data.shards.left_out import LeftOut
from vitrail.data.shards.scan import scan_shards
from vitrail.data.shards.write import Progress, ShardWriter, write_shards
from vitrail.errors import DataError, UsageError
from vitrail.recipe import DataConfig
from vitrail.storage.atomic import sync_folder, write_file
from vitrail.storage.json_text import to_json


@dataclass(frozen=True)
class Packed:
    """What was written. parts: images by part; sha256: of the index."""

    shards: Sequence[Shard]
    parts: Mapping[str, int]
    classes: Sequence[str]
    notes: Sequence[str]
    sha256: str


def pack_data(choice: DataConfig, out: Path, limit: int, progress: Progress | None = None) -> Packed:
    """Writes the data set as the new folder `out`, in shards of about `limit` bytes; without the images that cannot be
    read, as `on_error` and `max_errors` of the choice allow. Errors: `UsageError` where the folder is there,
    `DataError`."""
    if out.exists() or out.is_symlink():
        raise UsageError(f"{out} is there already and is never overwritten", "choose another --out")
    dataset, _ = open_data(choice)
    temporary = out.with_name(f".{out.name}.tmp-{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        left = LeftOut(choice.on_error == "skip", "image")
        about, arrays = write_shards(dataset, ShardWriter(temporary, limit, to_json), left, progress)
        left.check(sum(map(len, dataset.splits.values())), choice.max_errors)
        packed = write_index(temporary, about, arrays)
        os.rename(temporary, out)
        sync_folder(out.parent)
        return packed
    except OSError as error:
        what = f"{out} cannot be written: {error.strerror or error}"
        raise DataError(what, "choose another --out, or free the space it needs") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def index_shards(folder: Path, progress: Progress | None = None, skip: bool = False, max_errors: float = 0.0) -> Packed:
    """Writes the index of the shards in a folder. skip, max_errors: see `scan_shards`. Errors: `UsageError` where there
    are none, `DataError`."""
    if not folder.exists():
        raise UsageError(f"{folder}: there is no such folder", suggest_path(folder))
    if not folder.is_dir() or not any(folder.glob("*.tar")):
        raise UsageError(
            f"{folder} is no folder of .tar shards, and no --out was given", f"vitrail pack {folder} --out SHARDS"
        )
    about, arrays = scan_shards(folder, progress, skip, max_errors)
    try:
        return write_index(folder, about, arrays)
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error.strerror or error}", "check its permissions") from None


def write_index(folder: Path, about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Packed:
    content = encode_arrays(to_json(about), arrays)
    write_file(folder / NAME, content)
    parts = {part: len(arrays[f"{part}.labels"]) for part in about["parts"]}
    shards = [Shard(*row) for row in about["shards"]]
    return Packed(shards, parts, about["classes"], about["notes"], hashlib.sha256(content).hexdigest())
