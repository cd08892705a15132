"""The bundled data set: 12,000 images of Fashion-MNIST (Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747).

10,000 of the official 60,000 training and 2,000 of the 10,000 test images, sampled without replacement by a
`numpy.random.default_rng(SEED)` each, in their order. `benchmarks/make_mini.py` writes the files in this folder, which
also has the licence (MIT).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vitrail.data.dataset import ArrayReader, Dataset, Split
from vitrail.data.decode import decode
from vitrail.errors import DataError

SEED = 2017
SIDE = 28  # pixels
COUNTS = {"train": 10_000, "test": 2_000}
COLUMNS = {"train": 100, "test": 50}  # images in a row of the sprite
CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


@dataclass(frozen=True)
class Config:
    path: str = ""


def matches(path: str) -> bool:
    """The word "mini"."""
    return path == "mini"


def build(config: Config) -> Dataset:
    """Splits "train" (10,000) and "test" (2,000), arrays [N 28 28 1], ten classes. `config.path` is ignored."""
    splits = {part: _split(Path(__file__).parent, part) for part in COUNTS}
    note = "12,000 images of Fashion-MNIST, (c) 2017 Zalando SE, MIT licence"
    return Dataset("mini", CLASSES, splits, 1, notes=(note,))


def choose_indices(part: str, total: int) -> np.ndarray:
    """int64 [N]: indices of the selected images in the official split, ascending."""
    return np.sort(np.random.default_rng(SEED).choice(total, COUNTS[part], replace=False))


def _split(folder: Path, part: str) -> Split:
    sprite = decode(folder / f"{part}.png", channels=1)
    lines = (folder / "labels.txt").read_text().splitlines()
    digits = next((line.removeprefix(f"{part} ") for line in lines if line.startswith(f"{part} ")), "")
    count, columns = COUNTS[part], COLUMNS[part]
    if sprite.shape[:2] != (count // columns * SIDE, columns * SIDE) or len(digits) != count:
        raise DataError("the images that come with vitrail are damaged", "install vitrail again")
    tiles = sprite.reshape(count // columns, SIDE, columns, SIDE).swapaxes(1, 2)  # rows, columns, height, width
    labels = np.frombuffer(digits.encode(), np.uint8).astype(np.int64) - ord("0")
    return Split([f"{part}/{i}" for i in range(count)], labels, ArrayReader(tiles.reshape(count, SIDE, SIDE, 1)))
