"""Annotations of which some fields or bytes are something else are read or refused: only errors of ours leave the
readers."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from dense_data import coco, make_image, xml

from vitrail.datasets import coco as coco_layout
from vitrail.datasets import voc, yolo
from vitrail.errors import VitrailError

ODD = (  # values in the place of any value
    None, True, -1, 0, 3, 2**63, -(2**70), 10**400, 0.5, 1e308, float("nan"), float("inf"), "", "7", "../x", "\0",
    "a\ud800", [], [[]], [1, 2, 3, 4], [[0, 0, 9, 0, 9, 9]], [["a", 2, 3, 4, 5, 6]], {},
    {"size": [20, 30], "counts": "o"}, {"size": 5, "counts": [1]}, {"size": [20, 30], "counts": [600]},
    {"size": [2**40, 2**40], "counts": [0]},
)  # fmt: skip
PIECES = (
    b"\0",
    b"\xff",
    b"9" * 30,
    b"-",
    b"nan",
    b"1e999",
    b"[",
    b"{",
    b"<!ENTITY a 'b'>",
    b"&a;",
    b": ",
    b"\n",
    b"*a",
    b"!!x ",
)
ROUNDS = 60


def change_value(whole: object, rng: random.Random) -> None:
    """Replaces, removes or copies one value somewhere in nested lists and mappings."""
    while True:
        keys = list(whole) if isinstance(whole, dict) else range(len(whole))  # type: ignore[arg-type]
        if not len(keys):
            return
        key = rng.choice(list(keys))
        inner = whole[key]  # type: ignore[index]
        if isinstance(inner, dict | list) and rng.random() < 0.85:
            whole = inner
        elif rng.random() < 0.2:
            del whole[key]  # type: ignore[attr-defined]
            return
        else:
            whole[key] = rng.choice(ODD)  # type: ignore[index]
            return


def change_bytes(data: bytes, rng: random.Random) -> bytes:
    """Some bytes replaced, removed, inserted or doubled."""
    for _ in range(rng.randint(1, 3)):
        at, end = sorted((rng.randint(0, len(data)), rng.randint(0, len(data))))
        end = min(end, at + 40)
        put = rng.choice((b"", rng.choice(PIECES), data[at:end] * 2, bytes([rng.randrange(256)])))
        data = data[:at] + put + data[end if rng.random() < 0.5 else at :]
    return data


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
    if name == "coco" and rng.random() < 0.8:
        whole = json.loads(before)
        change_value(whole, rng)
        file.write_text(json.dumps(whole))
    else:
        file.write_bytes(change_bytes(before, rng))
    try:
        attempt(layout, root, rng.choice(kinds))
    finally:
        file.write_bytes(before)


@pytest.mark.parametrize("name", LAYOUTS)
def test_only_our_errors_leave_the_readers(tmp_path, name):
    for seed in range(ROUNDS):
        run(name, tmp_path, seed)
