"""ADE20K in the layout of the scene parsing challenge (Zhou et al. 2017, arXiv:1608.05442): `images/training/` and
`annotations/training/`.

150 classes from 1 on; 0 is everything else and is ignored, as in the benchmark.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vitrail.data.annotations.mask_classes import detect_classes
from vitrail.data.annotations.masks import number_classes
from vitrail.data.annotations.pairs import make_entry, read_text
from vitrail.data.dataset import Dataset, Entry
from vitrail.data.files import resolve_folder
from vitrail.datasets import masks
from vitrail.errors import DataError
from vitrail.validation import Count

TABLE = "objectInfo150.txt"
CLASSES = 150
LARGEST = 2**20  # bytes of the table


@dataclass(frozen=True)
class Config:
    path: str = ""
    channels: Count = 0  # 1, 3 or 4; 0: as the data
    follow_links: bool = False  # symbolic links out of the folder too
    zero: Literal["keep", "ignore"] = "ignore"  # "keep": 0 is a class too, named "other"


def matches(path: str) -> bool:
    """A folder with images/training/ and annotations/training/."""
    root = Path(path).expanduser()
    return (root / "images" / "training").is_dir() and (root / "annotations" / "training").is_dir()


def build(config: Config) -> Dataset:
    """Splits "train" and "val". Class names are the first of each line of objectInfo150.txt. Raises `DataError`."""
    root = resolve_folder(config.path)
    pairs, notes = masks.find_pairs(root, config.follow_links)
    shift = int(config.zero == "ignore")
    table = root / TABLE
    extra: tuple[Entry, ...] = ()
    if not pairs:
        raise DataError(f"{root} has no image with a mask", masks.LAYOUT)
    if table.is_file():
        names, extra = read_class_names(table), (make_entry(root, table),)
        classes = number_classes(names, 1) if shift else number_classes(["other", *names])
        notes = [*notes, *(["0 is ignored, as in the benchmark; --data.zero keep makes it a class"] if shift else [])]
    else:
        classes, detected = detect_classes([root / p.annotation.name for p in pairs], shift)
        notes = [*notes, *detected, f"{TABLE} beside images/ would name the classes"]
    return masks.assemble_dataset("ade20k", root, pairs, classes, masks.Config(channels=config.channels), notes, extra)


def read_class_names(path: Path) -> list[str]:
    """The names of classes 1 to 150. Errors: `DataError`."""
    lines = read_text(path, LARGEST).decode(errors="replace").splitlines()
    rows = [re.split(r"\t+|\s{2,}", line.strip()) for line in lines if re.match(r"\s*\d", line)]
    names = [row[-1].split(",")[0].strip() for row in rows]
    if len(names) != CLASSES or [row[0] for row in rows] != [str(i + 1) for i in range(CLASSES)]:
        raise DataError(
            f"{path} names {len(names)} classes, not 1 to {CLASSES} in order", "download it again, or remove it"
        )
    return names
