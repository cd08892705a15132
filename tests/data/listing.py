"""Prints a digest of every data set in a folder, as its layout opens it: `listing.py FOLDER SEED`. With a seed above 0
folders list their files in another order, as another file system might."""

import hashlib
import os
import random
import sys
from pathlib import Path

from vitrail import catalog
from vitrail.validation import update_config

chance = random.Random(int(sys.argv[2]))
scan, names_in = os.scandir, os.listdir


class Shuffled:
    def __init__(self, entries):
        self.entries = list(entries)
        chance.shuffle(self.entries)
        self.rest = iter(self.entries)

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.rest)

    def __enter__(self):
        return self

    def __exit__(self, *given):
        self.close()

    def close(self):
        pass


def scandir(path="."):
    with scan(path) as entries:
        return Shuffled(entries)


def listdir(path="."):
    names = names_in(path)
    chance.shuffle(names)
    return names


def digest(folder: Path) -> str:
    if (folder / "labels.csv").exists():
        folder = folder / "labels.csv"
    layout = catalog.detect_layout(str(folder))
    entry = catalog.find("datasets", layout)
    dataset = entry.module.build(update_config(entry.config, {"path": str(folder)}, layout))
    found = hashlib.sha256(repr((layout, dataset.classes, dataset.entries, dataset.notes)).encode())
    for name, split in dataset.splits.items():
        found.update(repr((name, list(split.names), split.labels.tolist())).encode())
        for index in range(len(split)):
            found.update(split.read(index).tobytes() + split.annotation_bytes(index))
    return f"{folder.name} {layout} {found.hexdigest()}"


if int(sys.argv[2]):
    os.scandir, os.listdir = scandir, listdir
for one in sorted(Path(sys.argv[1]).glob("*")):
    print(digest(one))
assert "torch" not in sys.modules
