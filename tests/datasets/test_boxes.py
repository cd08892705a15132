"""Boxes come out of COCO's JSON, VOC's XML and YOLO's text in the same pixels, and what cannot be right is told with
its place."""

import json
import pickle
import re

import numpy as np
import pytest
from dense_data import SIZE, annotation, boxes, coco, make_image, mask, problem, xml

from vitrail import catalog
from vitrail.datasets import coco as coco_layout
from vitrail.datasets import voc, yolo
from vitrail.errors import BadImage, UsageError


def build(layout, path, **settings):
    return layout.build(layout.Config(str(path), **settings))


# COCO


def test_coco(tmp_path):
    coco(tmp_path)
    assert catalog.detect_layout(str(tmp_path)) == "coco"
    data = build(coco_layout, tmp_path)
    assert (data.kind, data.classes) == ("boxes", ("cat", "dog"))  # in the order of their ids, with gaps between them
    assert {part: split.names[1] for part, split in data.splits.items()} == {
        "train": "train2017/1.jpg",
        "val": "val2017/1.jpg",
    }
    split = data.splits["train"]
    assert boxes(split, "1.jpg") == [(1, 2, 9, 8, 1)]
    assert split.read(1).shape == (*SIZE, 3)
    assert (split.labels == 0).all()
    assert boxes(pickle.loads(pickle.dumps(split)), "2.jpg") == [(2, 2, 10, 8, 0)]  # noqa: S301 - what a worker process receives
    assert boxes(split.select(np.array([3, 1])), "3.jpg") == [(3, 2, 11, 8, 1)]
    assert len(data.entries) == 10


def test_coco_beside_its_images(tmp_path):
    for i in range(5):
        make_image(tmp_path / "pics" / f"{i}.png", i)
    images = [{"id": i, "file_name": f"{i}.png"} for i in range(6)]
    objects = [{"id": i, "image_id": i, "category_id": 0, "bbox": [1, 1, 5, 5]} for i in range(5)]
    file = tmp_path / "pics" / "things.json"
    file.write_text(json.dumps({"images": images, "annotations": objects, "categories": [{"id": 0, "name": "x"}]}))
    for path in (file, tmp_path / "pics"):
        assert catalog.detect_layout(str(path)) == "coco"
        data = build(coco_layout, path, seed=3)
        assert {part: len(split) for part, split in data.splits.items()} == {"train": 4, "val": 1}
        assert "left out, as they do not exist: 1 image in things.json, the first 5.png" in data.notes


def test_coco_masks(tmp_path):
    def change(whole):
        counts = [0, SIZE[0] * 3, SIZE[0] * (SIZE[1] - 3)]  # the first three columns
        whole["annotations"][0]["segmentation"] = {"size": list(SIZE), "counts": counts}
        whole["annotations"].append({**whole["annotations"][1], "id": 9, "category_id": 3, "bbox": [1, 2, 2, 6],
                                     "segmentation": [[1, 2, 3, 2, 3, 8, 1, 8]]})  # fmt: skip

    data = build(coco_layout, coco(tmp_path, change=change), annotation="masks")
    assert (data.kind, data.classes) == ("masks", ("background", "cat", "dog"))
    split = data.splits["train"]
    runs = annotation(split, "0.jpg")
    assert (runs[:, :3] == 1).all()
    assert not runs[:, 3:].any()
    painted = annotation(split, "1.jpg")
    assert (painted[2:8, 1:3] == 1).all()  # the smaller object lies above
    assert (painted[2:8, 3:9] == 2).all()
    assert (painted > 0).sum() == 48
    with pytest.raises(UsageError, match="tile"):
        build(coco_layout, tmp_path, annotation="masks", tile=8)


def test_coco_regions_that_do_not_fit(tmp_path):
    def change(whole):
        whole["annotations"][0]["segmentation"] = {"size": list(SIZE), "counts": [5, 5]}
        whole["annotations"][1]["segmentation"] = {"size": [3, 3], "counts": "o"}

    split = build(coco_layout, coco(tmp_path, change=change), annotation="masks").splits["train"]
    with pytest.raises(BadImage, match=r"0\.jpg: annotation 0 has run lengths that sum to 10 pixels"):
        annotation(split, "0.jpg")
    with pytest.raises(BadImage, match=r"1\.jpg: annotation 1 has the size"):
        annotation(split, "1.jpg")
    assert annotation(split, "2.jpg").max() == 1
    bare = coco(tmp_path / "bare", change=lambda whole: [a.pop("segmentation") for a in whole["annotations"]])
    assert "no object has a segmentation" in problem(coco_layout, bare, annotation="masks")


WRONG = {
    "annotations[1] is": lambda w: w["annotations"][1].update(bbox=[1, 2, 3]),
    'annotations[0] is {"id": 0': lambda w: w["annotations"][0].update(bbox=[1, 2, float("nan"), 3]),
    "annotations[2] has category_id 5": lambda w: w["annotations"][2].update(category_id=5),
    "annotations[2] has image_id 5": lambda w: w["annotations"][2].update(image_id=5),
    "images[3] is": lambda w: w["images"][3].update(file_name="../../etc/passwd"),
    "images[1] is": lambda w: w["images"][1].update(height="tall"),
    "images[2] is": lambda w: w["images"][2].update(height=10**6, width=10**6),
    "images[0] is 7": lambda w: w["images"].insert(0, 7),
    "two images have the same id": lambda w: w["images"][1].update(id=100),
    "categories[0] is": lambda w: w["categories"][0].update(id="7"),
    "two categories": lambda w: w["categories"][0].update(name="cat"),
    "is not a COCO file": lambda w: w.update(annotations={}),
    "none of 8 images has a box": lambda w: w["annotations"].clear(),
    "none of its 4 images exists": lambda w: [i.update(file_name="no" + i["file_name"]) for i in w["images"]],
}


@pytest.mark.parametrize("told", WRONG)
def test_coco_of_the_wrong_shape(tmp_path, told):
    coco(tmp_path, change=WRONG[told])
    file = tmp_path / "annotations" / "instances_train2017.json"
    assert told in (problem(coco_layout, tmp_path) if "not a COCO" not in told else problem(coco_layout, file))


def test_coco_cut_short(tmp_path):
    file = coco(tmp_path) / "annotations" / "instances_train2017.json"
    file.write_bytes(file.read_bytes()[:-30])
    assert "is truncated or not JSON" in problem(coco_layout, tmp_path)
    for text in ("[" * 100_000, "5", "", "\xff"):
        file.write_text(text, encoding="latin-1")
        assert "instances_train2017.json is" in problem(coco_layout, file)
    (file.parent / "instances_train2014.json").write_text((file.parent / "instances_val2017.json").read_text())
    file.write_text((file.parent / "instances_val2017.json").read_text())
    assert "has two COCO files of the split train" in problem(coco_layout, tmp_path)


def test_coco_sizes_are_compared_with_the_images(tmp_path):
    def change(whole):
        for image in whole["images"][:2]:
            image.update(height=SIZE[1], width=SIZE[0])

    note = (
        "of another size (height x width) than in the file: 4 images of 8 in a sample, "
        "the first train2017/0.jpg: 20 x 30, not 30 x 20"
    )
    assert build(coco_layout, coco(tmp_path, change=change)).notes[0] == note


def test_coco_categories_must_agree(tmp_path):
    file = coco(tmp_path) / "annotations" / "instances_val2017.json"
    file.write_text(file.read_text().replace("dog", "cow"))
    assert "instances_val2017.json has other categories than instances_train2017.json" in problem(coco_layout, tmp_path)


# what is done to boxes, whatever their layout


def test_boxes_that_stick_out(tmp_path):
    def change(whole):
        for item, box in zip(
            whole["annotations"], ([-1, 2, 8, 6], [25, 2, 6.5, 6], [5, 5, 0, 9], [20, 2, 40, 6]), strict=True
        ):
            item["bbox"] = box

    data = build(coco_layout, coco(tmp_path, change=change))
    split = data.splits["train"]
    assert [boxes(split, f"{i}.jpg") for i in range(4)] == [
        [(0, 2, 7, 8, 0)],
        [(25, 2, 30, 8, 1)],
        [],
        [(20, 2, 60, 8, 1)],
    ]
    assert data.notes == (
        "clipped to the image, which they exceeded by at most 2 pixels: 4 boxes",
        "left out, as their height or width is zero: 2 boxes, the first in train2017/2.jpg",
        "more than 2 pixels outside their image: 2 boxes, the first in train2017/3.jpg",
    )


def test_tiles_of_images(tmp_path):
    data = build(coco_layout, coco(tmp_path), tile=15, overlap=0.0)
    assert {part: len(split) for part, split in data.splits.items()} == {"train": 16, "val": 4}
    assert data.splits["train"].read(0).shape == (15, 15, 3)
    assert boxes(data.splits["train"], "1.jpg [0,0]") == [(1, 2, 9, 8, 1)]
    dropped = build(coco_layout, tmp_path, tile=15, overlap=0.0, empty="drop")
    assert {part: len(split) for part, split in dropped.splits.items()} == {
        "train": 8,
        "val": 4,
    }  # rows from 0 and from 5 on
    assert "cut into tiles of at most 15 x 15: 4 images of train into 8 tiles" in dropped.notes


# VOC


def trees(root, count=4):
    for i in range(count):
        make_image(root / f"{i}.png", i)
        xml(root / f"{i}.xml", [("tree", 0, 2, 8 + i, 8), ("bush", 10, 2, 20, 12)])
    return root


def test_xml_beside_images(tmp_path):
    make_image(trees(tmp_path) / "more.png")
    xml(tmp_path / "other.xml", [])
    assert catalog.detect_layout(str(tmp_path)) == "voc"
    data = build(voc, tmp_path, test=("2",), split=(1, 0))
    assert data.classes == ("bush", "tree")
    assert {part: split.names for part, split in data.splits.items()} == {
        "train": ["0.png", "1.png", "3.png"],
        "test": ["2.png"],
    }
    assert boxes(data.splits["test"], "2.png") == [(0, 2, 10, 8, 1), (10, 2, 20, 12, 0)]
    assert data.notes[:2] == (
        "left out, as they lack an XML: 1 image, the first more.png",
        "left out, as they lack an image: 1 XML, the first other.xml",
    )
    named = build(voc, tmp_path, classes=("tree", "bush", "hedge"))
    assert named.classes == ("tree", "bush", "hedge")
    assert "'bush' is not among the classes" in problem(voc, tmp_path, classes=("tree", "busch"))


def test_voc_as_published(tmp_path):
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for i in range(4):
        make_image(tmp_path / "JPEGImages" / f"{i}.jpg", i)
        mask(tmp_path / "SegmentationClass" / f"{i}.png", np.full(SIZE, i), palette=True)
        xml(tmp_path / "Annotations" / f"{i}.xml", [("dog", 1, 2, 30, 8)])
    hard = tmp_path / "Annotations" / "0.xml"
    hard.write_text(hard.read_text().replace("<difficult>0", "<difficult>1"))
    (lists / "train.txt").write_text("0\n1\n")
    (lists / "val.txt").write_text("2 1\n9 -1\n")
    assert catalog.detect_layout(str(tmp_path)) == "voc"
    data = build(voc, tmp_path)
    assert {part: split.names for part, split in data.splits.items()} == {
        "train": ["JPEGImages/0.jpg", "JPEGImages/1.jpg"],
        "val": ["JPEGImages/2.jpg"],
    }
    assert boxes(data.splits["train"], "1.jpg") == [(0, 1, 30, 8, 0)]  # counted from 1, both ends included
    assert [bool(data.splits["train"].annotation(i).crowd[0]) for i in range(2)] == [True, False]
    assert "the XMLs count pixels from 1; boxes were shifted to 0" in data.notes
    assert "missing, but in the lists: 1 image, the first 9" in data.notes
    assert boxes(build(voc, tmp_path, first="zero").splits["train"], "1.jpg") == [(1, 2, 30, 8, 0)]
    (tmp_path / "ImageSets" / "Segmentation").mkdir()
    (tmp_path / "ImageSets" / "Segmentation" / "train.txt").write_text("0\n1\n2\n3\n")
    assert catalog.detect_layout(str(tmp_path)) == "voc"
    assert build(voc, tmp_path, annotation="masks").kind == "masks"


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t[:-20], "no element found|mismatched|unclosed"),
        (lambda t: "", "no element found"),
        (lambda t: t.replace("annotation>", "html>"), "it is a <html>"),
        (lambda t: t.replace("<name>tree</name>", ""), "an object has no <name>"),
        (lambda t: t.replace("<xmin>0</xmin>", ""), r"a box of 'tree' is \? 2"),
        (lambda t: t.replace("<xmin>0", "<xmin>nan"), "a box of 'tree' is nan"),
        (lambda t: t.replace("<xmin>0", "<xmin>9e99999999"), "a box of 'tree' is 9e99"),
        (lambda t: BOMB + t.replace("tree", "&b;"), "it declares entities"),
        (lambda t: '<!DOCTYPE x SYSTEM "file:///etc/passwd">' + t, "it has a DOCTYPE"),
    ],
)
def test_xml_that_cannot_be_used(tmp_path, change, told):
    file = trees(tmp_path) / "1.xml"
    file.write_text(change(file.read_text()))
    assert re.search(f"1.xml cannot be used: .*({told})", problem(voc, tmp_path))


def test_entities_in_utf16_are_seen_too(tmp_path):
    file = trees(tmp_path) / "1.xml"
    file.write_bytes(('<?xml version="1.0" encoding="utf-16"?>' + BOMB + file.read_text()).encode("utf-16"))
    assert "1.xml cannot be used: it declares entities" in problem(voc, tmp_path)


# YOLO


def texts(root, parts=("train", "val"), line="1 0.5 0.5 0.2 0.4\n"):
    for part in parts:
        for i in range(3):
            make_image(root / "images" / part / f"{i}.jpg", i)
            file = root / "labels" / part / f"{i}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(line)
    return root


YAML = {
    "block": "# made by hand\npath: .\ntrain: images/train\nval: images/val\nnc: 2\n"
    "names:\n  0: cat  # soft\n  1: 'hot dog'\n",
    "list": "names:\n- cat\n- hot dog\ntrain: ../images/train\nval:\n  - images/val\n",
    "inline": "train: images/train\nval: images/val\nnames: ['cat', \"hot dog\"]\n",
    "braces": "train: images/train\nval: images/val\nnames: {0: cat, 1: hot dog}\n",
}


@pytest.mark.parametrize("form", YAML)
def test_yolo(tmp_path, form):
    (texts(tmp_path) / "data.yaml").write_text(YAML[form])
    for path in (tmp_path, tmp_path / "data.yaml"):
        assert catalog.detect_layout(str(path)) == "yolo"
        data = build(yolo, path)
        assert data.classes == ("cat", "hot dog")
        assert {part: len(split) for part, split in data.splits.items()} == {"train": 3, "val": 3}
        assert boxes(data.splits["train"], "1.jpg") == [(12, 6, 18, 14, 1)]
        assert len(data.entries) == 13


def test_yolo_without_a_yaml(tmp_path):
    texts(tmp_path, ("",), "0 0.5 0.5 0.2 0.4\n\n1 0 0 0.5 0 0.5 0.5 0 0.5\n")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    (tmp_path / "labels" / "1.txt").unlink()
    (tmp_path / "labels" / "2.txt").write_text("")
    make_image(tmp_path / "preview.png")
    assert catalog.detect_layout(str(tmp_path)) == "yolo"
    data = build(yolo, tmp_path, split=(1, 0))
    assert data.classes == ("cat", "dog")
    split = data.splits["train"]
    assert boxes(split, "0.jpg") == [(12, 6, 18, 14, 0), (0, 0, 15, 10, 1)]  # of a polygon, what lies around it
    assert boxes(split, "1.jpg") == boxes(split, "2.jpg") == []
    assert data.notes[0] == "without a label file, so without objects: 1 image, the first images/1.jpg"
    (tmp_path / "classes.txt").unlink()
    assert build(yolo, tmp_path).classes == ("0", "1")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("x 0.5 0.5 0.2 0.4", "is not a class followed by numbers"),
        ("0 0.5 0.5 0.2", "3 numbers follow the class"),
        ("0 0.5 0.5 0.2 0.4 0.9", "5 numbers follow the class"),
        ("2 0.5 0.5 0.2 0.4", "class 2 is out of range"),
        ("-1 0.5 0.5 0.2 0.4", "class -1 is out of range"),
        ("0 15 10 6 8", "are not relative to the image"),
        ("0 nan 0.5 0.2 0.4", "are not relative to the image"),
    ],
)
def test_yolo_lines_that_cannot_be_used(tmp_path, line, told):
    (texts(tmp_path, line=f"\n{line}\n") / "data.yaml").write_text(YAML["block"])
    found = problem(yolo, tmp_path)
    assert "labels/train/0.txt, line 2: " in found
    assert told in found


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("train: images/trian\nnames: [a]\n", "did you mean|has no such folder"),
        ("names:\n  1: a\n", "class 1 is listed instead of 0"),
        ("names: [a, a]\n", "same name"),
        ("names: [a,\n  b\n", "line 1: did not find expected ',' or ']'"),
        ("names: [a]\n!!python/object\n", "line 2"),
    ],
)
def test_yaml_that_cannot_be_used(tmp_path, text, told):
    (texts(tmp_path) / "data.yaml").write_text(text)
    assert re.search(told, problem(yolo, tmp_path))
