"""A folder of IDX files, the format of MNIST, Fashion-MNIST and KMNIST: `train-images-idx3-ubyte.gz` and three more."""

import gzip
import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from vitrail.data.dataset import ArrayReader, Dataset, Entry, Split
from vitrail.data.files import resolve_folder
from vitrail.errors import DataError

FILE = re.compile(r"(?P<set>.*-)?(?P<part>train|t10k|test|val)[-_](?P<kind>images|labels)[-.]idx[13]-ubyte(\.gz)?")
PARTS = {"train": "train", "val": "val", "test": "test", "t10k": "test"}
FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
LARGEST = 2**34  # bytes of pixels
AGAIN = "download the file again"


@dataclass(frozen=True)
class Config:
    path: str = ""
    classes: tuple[str, ...] = ()  # names of classes; empty: Fashion-MNIST's if the folder is named so, else digits


def matches(path: str) -> bool:
    """A folder with files named like IDX files."""
    folder = Path(path).expanduser()
    try:
        return folder.is_dir() and any(FILE.fullmatch(name) for name in os.listdir(folder))
    except OSError:
        return False


def build(config: Config) -> Dataset:
    """The images as arrays [N H W 1]. Raises `DataError` for a file that is missing, truncated or unlike its header."""
    root = resolve_folder(config.path)
    files = _files(root)
    if not files:
        raise DataError(
            f"{root} has no train-images-idx3-ubyte",
            "put the published training files there, .gz or not",
        )
    splits: dict[str, Split] = {}
    entries: list[Entry] = []
    for part in [p for p in ("train", "val", "test") if p in files]:
        pair = files[part]
        if len(pair) < 2:
            lacking = "labels" if "images" in pair else "images"
            raise DataError(
                f"{root}: the {lacking} of {part} are missing", f"put the file beside {next(iter(pair.values())).name}"
            )
        images, labels = read(pair["images"], 3), read(pair["labels"], 1)
        if len(images) != len(labels):
            raise DataError(f"{root}: {part} has {len(images):,} images but {len(labels):,} labels", AGAIN)
        names = [f"{part}/{i}" for i in range(len(labels))]
        splits[part] = Split(names, labels.astype(np.int64), ArrayReader(images[..., None]))
        entries += [Entry(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in pair.values()]
    classes = config.classes or _classes(root, splits)
    for where, split in splits.items():
        if (top := int(split.labels.max())) >= len(classes):
            at = int(split.labels.argmax())
            raise DataError(
                f"{where}/{at} has label {top}, but there are {len(classes)} classes", "name every class in classes"
            )
    return Dataset("idx", tuple(classes), splits, 1, tuple(sorted(entries)))


def read(path: Path, axes: int) -> np.ndarray:
    """One IDX file of unsigned bytes with that many axes, gzipped or not. Raises `DataError`."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            return _array(cast(BinaryIO, file), path, axes)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is truncated or damaged: {error}", AGAIN) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}", "check its permissions") from None


def _array(file: BinaryIO, path: Path, axes: int) -> np.ndarray:
    magic = file.read(4)
    if len(magic) < 4:
        raise DataError(f"{path} is truncated: it has {len(magic)} bytes", AGAIN)
    if magic[:3] != b"\0\0\x08":
        raise DataError(f"{path} is not an IDX file of unsigned bytes: it starts with {magic.hex(' ')}", AGAIN)
    if magic[3] != axes:
        raise DataError(f"{path} has {magic[3]} axes instead of {axes}", "check that images and labels are not swapped")
    shape = tuple(int(n) for n in np.frombuffer(file.read(4 * axes).ljust(4 * axes, b"\0"), ">u4"))
    size = int(np.prod(shape, dtype=object))
    if size == 0 or size > LARGEST:
        raise DataError(f"{path}: its header has the impossible shape {' x '.join(map(str, shape))}", AGAIN)
    data = bytearray()
    # in chunks: no more memory than the file has data, whatever its header claims
    while len(data) <= size and (more := file.read(min(2**24, size + 1 - len(data)))):
        data += more
    if len(data) != size:
        available = "more" if len(data) > size else f"{len(data):,}"
        raise DataError(
            f"{path}: its header claims {size:,} bytes ({' x '.join(map(str, shape))}), but there are {available}",
            AGAIN,
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


def _files(root: Path) -> dict[str, dict[str, Path]]:
    """Split -> "images" or "labels" -> file; of a plain and a gzipped copy the plain one."""
    by_part: dict[str, dict[str, Path]] = {}
    for name in sorted(os.listdir(root)):
        if match := FILE.fullmatch(name):
            kinds = by_part.setdefault(PARTS[match["part"]], {})
            other = kinds.setdefault(match["kind"], root / name)
            if other.name.removesuffix(".gz") != name.removesuffix(".gz"):
                raise DataError(f"{root} has two data sets: {other.name} and {name}", "keep one data set a folder")
    return by_part


def _classes(root: Path, splits: dict[str, Split]) -> tuple[str, ...]:
    if "fashion" in root.name.lower():
        return FASHION
    top = max(int(s.labels.max()) for s in splits.values())
    return tuple(str(i) for i in range(max(10, top + 1)))
