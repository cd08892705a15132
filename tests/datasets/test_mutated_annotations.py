"""Annotations of which some fields or bytes are something else are read or refused: only errors of ours leave the
readers."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from dense_data import coco, make_image, xml
from fuzz_damage import damage

from vitrail.datasets import coco as coco_layout
from vitrail.datasets import voc, yolo
from vitrail.errors import VitrailError

ROUNDS = 60


def write_coco(root: Path) -> list[Path]:
    def change(whole: dict) -> None:
        whole["annotations"][0]["segmentation"] = {"size": [20, 30], "counts": [30, 20, 550]}

    coco(root, change=change)
    return [root / "annotations" / "instances_train2017.json"]


def write_voc(root: Path) -> list[Path]:
    for i in range(3):
        make_image(root / "JPEGImages" / f"{i}.jpg", i)
        xml(root / "Annotations" / f"{i}.xml", [("dog", 1, 2, 20, 8), ("cat", 3, 2, 9, 8)])
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / "train.txt").write_text("0\n1 -1\n")
    return [root / "Annotations" / "1.xml", root / "ImageSets" / "Main" / "train.txt"]


def write_yolo(root: Path) -> list[Path]:
    for i in range(3):
        make_image(root / "images" / f"{i}.jpg", i)
        (root / "labels").mkdir(exist_ok=True)
        (root / "labels" / f"{i}.txt").write_text("1 0.5 0.5 0.2 0.4\n0 0 0 0.5 0 0.5 0.5 0 0.5\n")
    (root / "list.txt").write_text("./images/0.jpg\n./images/1.jpg\n")
    (root / "data.yaml").write_text("path: .\ntrain: list.txt\nval: [images]\nnc: 2\nnames: {0: cat, 1: 'hot dog'}\n")
    return [root / "data.yaml", root / "labels" / "1.txt", root / "list.txt"]


LAYOUTS: dict[str, tuple[Callable[[Path], list[Path]], object, tuple[str, ...]]] = {
    "coco": (write_coco, coco_layout, ("boxes", "masks")),
    "voc": (write_voc, voc, ("boxes",)),
    "yolo": (write_yolo, yolo, ("",)),
}


def attempt(layout, root: Path, annotation: str) -> None:
    """Reads a data set, and every annotation in it."""
    try:
        data = layout.build(layout.Config(str(root), **({"annotation": annotation} if annotation else {})))
        for split in data.splits.values():
            for i in range(len(split)):
                split.annotation_bytes(i)
    except VitrailError as error:
        assert str(error).count("\n") < 5, error  # noqa: PT017 - most are no errors


def run(name: str, root: Path, seed: int) -> None:
    """One round: a data set with one change is read, and is as it was again."""
    write, layout, kinds = LAYOUTS[name]
    rng = random.Random(f"{name}{seed}")
    files = [root / p for p in root.rglob("*") if p.suffix in (".json", ".xml", ".txt", ".yaml")] or write(root)
    files = sorted(f for f in files if f.name in {p.name for p in files})
    file = rng.choice(files)
    before = file.read_bytes()
    file.write_bytes(damage(before, rng))
    try:
        attempt(layout, root, rng.choice(kinds))
    finally:
        file.write_bytes(before)


@pytest.mark.parametrize("name", LAYOUTS)
def test_only_our_errors_leave_the_readers(tmp_path, name):
    for seed in range(ROUNDS):
        run(name, tmp_path, seed)
