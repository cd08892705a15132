"""A text file with a square image a line, its class first: `cross #..#.##..##.#..#`; every fourth is held out."""

from dataclasses import dataclass
from math import isqrt
from pathlib import Path

import numpy as np

from vitrail.data.dataset import ArrayReader, Dataset, Entry, Split
from vitrail.errors import DataError


@dataclass(frozen=True)
class Config:
    path: str = ""


def matches(path: str) -> bool:
    """A file that ends in .dots."""
    return path.endswith(".dots") and Path(path).is_file()


def build(config: Config) -> Dataset:
    """Splits "train" and "val" of images uint8 [N S S 1], black where there is a dot. Errors: `DataError`."""
    path = Path(config.path)
    rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    if (
        len({tuple(map(len, row[1:])) for row in rows}) != 1
        or len(rows[0]) != 2
        or isqrt(len(rows[0][1])) ** 2 != len(rows[0][1])
    ):
        raise DataError(f"{path} does not hold square images of one size", "a line is a class and the image's dots")
    classes = sorted({name for name, _ in rows})
    side = isqrt(len(rows[0][1]))
    images = np.array([[255 * (dot != "#") for dot in dots] for _, dots in rows], np.uint8).reshape(-1, side, side, 1)
    labels = np.array([classes.index(name) for name, _ in rows], np.int64)
    held_out = np.arange(len(rows)) % 4 == 3
    splits = {
        part: Split([f"line {i + 1}" for i in np.flatnonzero(chosen)], labels[chosen], ArrayReader(images[chosen]))
        for part, chosen in (("train", ~held_out), ("val", held_out))
    }
    stat = path.stat()
    entry = Entry(path.name, stat.st_size, stat.st_mtime_ns)
    return Dataset("dots", tuple(classes), splits, 1, (entry,), ("every fourth image is held out as val",))
