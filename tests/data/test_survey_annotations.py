"""The survey of annotations counts every pixel and box, names every error, and reports nothing for sound data."""

import dataclasses

import numpy as np
import pytest
from dense_data import boxes as boxes_in
from dense_data import coco, halves, make_image, mask

from vitrail.data.annotations.boxes import as_boxes, pack_boxes
from vitrail.data.dataset import IGNORE, ArrayReader, Dataset, Split
from vitrail.data.survey.advice import advise as advise_on_images
from vitrail.data.survey.annotations import survey_annotations
from vitrail.data.survey.images import survey_images
from vitrail.datasets import coco as coco_layout
from vitrail.datasets import masks, shapes
from vitrail.report.survey.annotations import advice, render
from vitrail.report.survey.images import render as render_pictures


def of_boxes(rows, labels, crowd=(), size=(20, 30)) -> Dataset:
    """One image with boxes."""
    annotation = pack_boxes([as_boxes(rows, labels, crowd or [False] * len(labels))])
    split = Split(["a.png"], np.zeros(1, np.int64), ArrayReader(np.zeros((1, *size, 3), np.uint8)), annotation)
    return Dataset("test", ("cat", "dog"), {"train": split}, 3, kind="boxes")


def test_shapes_are_sound():
    config = shapes.Config("shapes", count_train=8, count_val=4, count_test=0)
    data = shapes.build(config)
    seen: list = []
    found = survey_annotations(data, lambda done, total: seen.append((done, total)), threads=2)
    assert {part: sum(counts) for part, counts in found.counts.items()} == {"train": 8 * 64 * 64, "val": 4 * 64 * 64}
    for part, split in data.splits.items():
        every = np.stack([split.annotation(i) for i in range(len(split))])
        assert found.counts[part] == tuple(np.bincount(every.ravel(), minlength=4))
        assert found.images[part] == tuple(int((every == k).any((1, 2)).sum()) for k in range(4))
    assert seen == [(8, 12), (12, 12)]
    assert (found.broken, found.faults, found.ignored) == ((), {}, {"train": 0, "val": 0})
    assert advice(data, found) == []
    assert found == survey_annotations(data, threads=1)
    boxed = shapes.build(dataclasses.replace(config, annotation="boxes"))
    found = survey_annotations(boxed)
    assert sum(found.counts["train"]) == sum(len(boxed.splits["train"].annotation(i).labels) for i in range(8))
    assert 8 < found.extent.low <= found.extent.middle <= found.extent.high < 40
    assert advice(boxed, found) == []
    text = "\n".join(render(boxed, found))
    assert f"{sum(found.counts['train']):,} train" in text
    assert "triangle" in text


def test_every_fault_of_a_box_is_told():
    nan = float("nan")
    rows = [
        (1, 1, 9, 9),
        (1, 1, 9, 9),
        (5, 5, 31, 9),
        (9, 9, 8, 12),
        (nan, 1, 9, 9),
        (2, 2, 5, 9),
        (2, 2, 12, 12),
        (0, 0, 30, 20),
    ]
    data = of_boxes(rows, [0, 0, 0, 0, 0, 0, 7, 0], [False] * 7 + [True])
    found = survey_annotations(data)
    assert {name: len(where) for name, where in found.faults.items()} == {
        "outside": 1, "empty": 2, "unknown": 1, "repeated": 1, "tiny": 1,
    }  # fmt: skip
    assert found.counts == {"train": (7, 0)}
    assert found.ignored == {"train": 1}
    said = advice(data, found)
    assert len(said) == 6
    assert said[1] == "without height or width: 2 boxes, the first in a.png; correct or remove them"
    assert said[-1] == "never in train: 1 class (dog); add images, or drop the classes"


def test_an_image_without_boxes():
    data = of_boxes([], [])
    found = survey_annotations(data)
    assert (found.counts, found.bare, found.extent, found.faults) == ({"train": (0, 0)}, {"train": 1}, None, {})
    assert any("without any" in line for line in render(data, found))


def test_masks_that_cannot_be_used_are_named_and_no_others(tmp_path):
    for i in range(6):
        make_image(tmp_path / "images" / f"{i}.png", i)
        mask(tmp_path / "masks" / f"{i}.png", halves(0, 1))
    (tmp_path / "classes.txt").write_text("ground\nroad\nsky\n")
    data = masks.build(masks.Config(str(tmp_path), split=(1, 0)))
    mask(tmp_path / "masks" / "1.png", halves(0, 7))
    mask(tmp_path / "masks" / "2.png", halves(0, 1, (30, 20)))
    (tmp_path / "masks" / "3.png").write_bytes(b"\x89PNG")
    mask(tmp_path / "masks" / "4.png", halves(255, 255))
    found = survey_annotations(data)
    assert [(bad.name, bad.number) for bad in found.broken] == [
        ("images/1.png", 1),
        ("images/2.png", 2),
        ("images/3.png", 3),
    ]
    assert found.counts == {"train": (600, 600, 0)}
    assert (found.ignored, found.bare) == ({"train": 600}, {"train": 1})
    assert found.images == {"train": (2, 2, 0)}
    said = advice(data, found)
    assert said == [
        "not usable: the annotations of 3 images; correct them, or remove the images",
        "never in train: 1 class (sky); add images, or drop the classes",
    ]
    text = "\n".join(render(data, found))
    for part in ("the value 7, which is no class", "is 30 x 20", "truncated", "pixels by class"):
        assert part in text


def test_masks_of_a_reader_that_checks_nothing():
    strange = np.stack([halves(0, 5), halves(IGNORE, IGNORE), halves(0, 1), halves(1, 1)])
    split = Split(
        list("abcd"), np.zeros(4, np.int64), ArrayReader(np.zeros((4, 20, 30, 3), np.uint8)), ArrayReader(strange)
    )
    data = Dataset("test", ("a", "b"), {"train": split}, 3, kind="masks")
    found = survey_annotations(data)
    assert [where.name for where in found.faults["unknown"]] == ["a"]
    other = Split(list("abcd"), split.labels, ArrayReader(np.zeros((4, 20, 31, 3), np.uint8)), ArrayReader(strange))
    assert len(survey_annotations(dataclasses.replace(data, splits={"train": other})).broken) == 4


def test_one_class_that_takes_nearly_everything():
    values = np.zeros((1, 20, 30), np.uint8)
    values[0, 0, 0] = 1
    split = Split(["a"], np.zeros(1, np.int64), ArrayReader(np.zeros((1, 20, 30, 3), np.uint8)), ArrayReader(values))
    data = Dataset("test", ("ground", "star"), {"train": split}, 3, kind="masks")
    assert advice(data, survey_annotations(data)) == [
        "ground has 99.8% of the pixels of train: evaluate by the mean IoU, not by the pixel accuracy"
    ]


def test_tiles_and_boxes_that_stick_out(tmp_path):
    def change(whole):
        whole["annotations"][0]["bbox"] = [20, 2, 40, 6]

    data = coco_layout.build(coco_layout.Config(str(coco(tmp_path, change=change))))
    found = survey_annotations(data)
    assert {name: [w.name for w in where] for name, where in found.faults.items()} == {
        "outside": ["train2017/0.jpg", "val2017/0.jpg"]
    }
    tiles = coco_layout.build(coco_layout.Config(str(tmp_path), tile=16))
    assert {name: [w.name for w in where] for name, where in survey_annotations(tiles).faults.items()} == {
        "outside": ["val2017/0.jpg"]
    }  # stays whole
    assert boxes_in(tiles.splits["train"], "1.jpg [0,0]") == [(1, 2, 9, 8, 1)]


def test_the_survey_of_the_images_counts_no_classes():
    data = shapes.build(shapes.Config("shapes", count_train=6, count_val=2, count_test=0))
    found = survey_images(data)
    assert found.counts == {}
    assert found.images == {"train": 6, "val": 2}
    assert advise_on_images(found) == []
    assert not any(line.startswith("class") for line in render_pictures(data, found))


@pytest.mark.parametrize("kind", ["masks", "boxes"])
def test_nothing_here_needs_torch(kind):
    import subprocess
    import sys

    code = "import sys; from vitrail.datasets import shapes, coco, voc, yolo, masks, ade20k, cityscapes, voc_masks\n"
    code += "from vitrail.data.survey.annotations import survey_annotations\n"
    code += "from vitrail.report.survey.annotations import render\n"
    code += f"d = shapes.build(shapes.Config('', '{kind}', 2, 0, 0))\n"
    code += "render(d, survey_annotations(d))\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
