"""Arrays by name with a table of facts, in one file in the format of safetensors, and mapped from it: nothing is copied
into memory, and a process that gets one of the arrays gets its place in the file.

A SHA-256 over all of it stands in the header; a file that was cut short or changed is refused. There is no code in it:
numbers, and one text of JSON.
"""

import hashlib
import json
import mmap
import os
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vitrail.errors import DataError

HEADER = 8  # bytes of the length of the header
LONGEST = 2**28  # bytes of a header
BLOCK = 2**20  # bytes that are hashed at a time
LEAST_SHARED = 2**20  # bytes of an array that is worth a file
ABOUT, DIGEST = "about", "sha256"
KINDS = {"U8": np.uint8, "I32": np.int32, "I64": np.int64, "F32": np.float32}
NAMES = {np.dtype(kind): name for name, kind in KINDS.items()}


@dataclass(frozen=True)
class Place:
    """Where an array lies in a file. mode: "r", or "c" for one that may be written to in memory."""

    path: str
    offset: int
    shape: tuple[int, ...]
    kind: str
    mode: Literal["r", "c"] = "r"

    def map(self) -> np.ndarray:
        """The array. Errors: `DataError` where the file is gone or shorter."""
        dtype = np.dtype(KINDS[self.kind])
        if not np.prod(self.shape, dtype=np.int64):
            return np.zeros(self.shape, dtype)
        try:
            mapped = np.memmap(self.path, dtype, self.mode, self.offset, self.shape)
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path} cannot be read: {error}", "start again: it is written anew") from None
        return np.asarray(mapped).view(MappedArray).at(self)


class MappedArray(np.ndarray):
    """An array in a file; another process gets its place instead of its values."""

    origin: Place | None = None

    def at(self, origin: Place) -> "MappedArray":
        self.origin = origin
        return self

    def __reduce__(self) -> Any:
        if self.origin is None:  # a part of one, or what was computed from one
            return np.asarray(self).copy().__reduce__()
        return map_origin, (self.origin,)


def map_origin(origin: Place) -> np.ndarray:
    return origin.map()


def share_array(array: np.ndarray) -> np.ndarray:
    """The array in a temporary file, which lasts as long as it does: a process that is sent it maps the file. As it is
    where it is small, or the file cannot be written."""
    if array.nbytes < LEAST_SHARED or array.dtype not in NAMES or isinstance(array, MappedArray):
        return array
    folder = tempfile.mkdtemp(prefix="vitrail-")
    try:
        array.tofile(path := os.path.join(folder, "array"))
        mapped = Place(path, 0, array.shape, NAMES[array.dtype], "c").map()
    except (OSError, DataError):
        shutil.rmtree(folder, ignore_errors=True)
        return array
    weakref.finalize(mapped, shutil.rmtree, folder, ignore_errors=True)
    return mapped


def encode_arrays(text: str, arrays: Mapping[str, np.ndarray]) -> bytes:
    """The content of a file. text: the table, as JSON. arrays: uint8, int32, int64 or float32."""
    from safetensors.numpy import save

    ordered = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return save(ordered, {ABOUT: text, DIGEST: digest_of(text, ordered)})


def digest_of(text: str, arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over the table and the arrays, in the order of their names."""
    rows = [(name, NAMES[arrays[name].dtype], arrays[name].shape) for name in sorted(arrays)]
    digest = hashlib.sha256(repr((text, rows)).encode(errors="surrogateescape"))
    for name, _, _ in rows:
        digest.update(as_bytes(np.asarray(arrays[name])))
    return digest.hexdigest()


def digest_of_file(text: str, places: Mapping[str, Place], path: Path) -> str:
    """The same of the arrays in a file, read block by block: what is mapped counts as memory once it was looked at."""
    rows = [(name, places[name].kind, places[name].shape) for name in sorted(places)]
    digest = hashlib.sha256(repr((text, rows)).encode(errors="surrogateescape"))
    with open(path, "rb") as file:
        for name, kind, shape in rows:
            left = int(np.prod(shape, dtype=np.int64)) * np.dtype(KINDS[kind]).itemsize
            file.seek(places[name].offset)
            while left and (block := file.read(min(left, BLOCK))):
                digest.update(block)
                left -= len(block)
    return digest.hexdigest()


def release(array: np.ndarray) -> None:
    """Gives back the memory of a mapped array, which is read from the file again where it is looked at again."""
    owner: Any = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, mmap.mmap) and "MADV_DONTNEED" in vars(mmap):  # Windows has none
        owner.madvise(mmap.MADV_DONTNEED)


def as_bytes(array: np.ndarray) -> memoryview:
    return memoryview(array.reshape(-1).view(np.uint8).data) if array.size else memoryview(b"")


def map_arrays(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What `encode_arrays` wrote, mapped from the file. Errors: `DataError` for a file that is damaged or another."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(HEADER), "little")
            if not 2 <= length <= LONGEST:
                raise ValueError("it has no header")
            header = json.loads(file.read(length))
            total = file.seek(0, 2)
        metadata = header.pop("__metadata__")
        places = {name: parse_row(path, row, HEADER + length, total) for name, row in header.items()}
        if digest_of_file(metadata[ABOUT], places, path) != metadata[DIGEST]:
            raise ValueError("its content is not that of its SHA-256")
        arrays = {name: places[name].map() for name in sorted(places)}
        about = json.loads(metadata[ABOUT])
        if not isinstance(about, dict):
            raise ValueError("it has no table")
        return about, arrays
    except OSError as error:
        raise DataError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}", "check it") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise DataError(f"{path} is damaged or no index: {why}", "write it again") from None


def read_beginning(path: Path) -> bytes:
    """The header of a file, with the SHA-256 of its content. Errors: `OSError`."""
    with open(path, "rb") as file:
        length = file.read(HEADER)
        return length + file.read(min(int.from_bytes(length, "little"), LONGEST))


def parse_row(path: Path, row: Mapping[str, Any], start: int, total: int) -> Place:
    """Errors: `ValueError` for an array that does not lie in the file."""
    shape, (first, end) = tuple(int(n) for n in row["shape"]), row["data_offsets"]
    size = int(np.prod(shape, dtype=object)) * np.dtype(KINDS[row["dtype"]]).itemsize if shape else 0
    if min((*shape, first), default=0) < 0 or end - first != size or start + end > total:
        raise ValueError("it was cut short")
    return Place(str(path), start + int(first), shape, row["dtype"])


def check_arrays(arrays: Mapping[str, np.ndarray], kinds: Mapping[str, Any], where: str) -> None:
    """Errors: `DataError` where an array is not there or of another type. kinds: the types by name."""
    for name, kind in kinds.items():
        if name not in arrays or arrays[name].dtype != kind:
            raise DataError(f"{where} is no index: it has no {name}", "write it again")
