"""COCO's JSON as other tools write it: what is read, what is left out with its count, and what is wrong with a refused
entry."""

import json
import os

import numpy as np
import pytest
from dense_data import SIZE, annotation, boxes, coco, make_image, problem

from vitrail.datasets import coco as layout


def build(path, **settings):
    return layout.build(layout.Config(str(path), **settings))


def each(kind, **values):
    """A change of every entry of a kind."""
    return lambda whole: [item.update(values) for item in whole[kind]]


def parts(data) -> dict[str, int]:
    return {part: len(split) for part, split in data.splits.items()}


READ = {
    "crowd null": each("annotations", iscrowd=None),
    "crowd false": each("annotations", iscrowd=False),
    "sizes with a point": each("images", height=20.0, width=30.0),
    "sizes unknown": each("images", height=-1, width=0),
    "sizes null": each("images", height=None),
    "ids with a point": lambda w: [i.update(id=float(i["id"])) for i in w["images"]],
    "ids of text": lambda w: [
        *(i.update(id=f"a{i['id']}") for i in w["images"]),
        *(a.update(image_id=f"a{a['image_id']}") for a in w["annotations"]),
    ],
    "backslashes": lambda w: [i.update(file_name=".\\" + i["file_name"]) for i in w["images"]],
    "a drive": lambda w: [i.update(file_name="C:\\data\\pics\\" + i["file_name"]) for i in w["images"]],
    "absolute": lambda w: [i.update(file_name="/content/pics/" + i["file_name"]) for i in w["images"]],
    "a parent category": lambda w: w["categories"].insert(0, {"id": 0, "name": "dog", "supercategory": "none"}),
}


@pytest.mark.parametrize("kind", READ)
def test_what_other_tools_write_is_read(tmp_path, kind):
    data = build(coco(tmp_path, change=READ[kind]))
    assert data.classes == ("cat", "dog")
    assert parts(data) == {"train": 4, "val": 4}
    assert boxes(data.splits["train"], "1.jpg") == [(1, 2, 9, 8, 1)]


REFUSED = {
    "its iscrowd is 2, not 0 or 1": each("annotations", iscrowd=2),
    "its width is 40.5, not a whole number of pixels": each("images", width=40.5),
    'its height is "tall", not a whole number of pixels': each("images", height="tall"),
    "its height x width is more than 64,000,000 pixels": each("images", width=9_000_000),
    "its bbox is not [left, top, width, height]": each("annotations", bbox=[1, 2, 3, None]),
    "it has neither bbox nor segmentation": each("annotations", bbox=None, segmentation=[]),
    'its category_id is "7", not a whole number': each("annotations", category_id="7"),
    "its file_name is not below the folder": each("images", file_name="a\\..\\..\\b.jpg"),
    "its file_name is no path of an image": each("images", file_name="/"),
    "its name is no text": each("categories", name=None),
    "a segmentation around which its box is": each("annotations", bbox=None, segmentation=[[1, 2]]),
    "two categories have the same name, 'cat': ids 3 and 7": each("categories", name="cat"),
}


@pytest.mark.parametrize("told", REFUSED)
def test_a_refused_entry_is_told_by_what_is_wrong_with_it(tmp_path, told):
    assert told in problem(layout, coco(tmp_path, change=REFUSED[told]))


def test_the_parent_category_is_left_out_in_all_files_and_told(tmp_path):
    def change(whole):
        whole["categories"].insert(0, {"id": 0, "name": "dog"})
        whole["annotations"] = [a for a in whole["annotations"] if a["category_id"] == 3]  # dogs have no object at all

    data = build(coco(tmp_path, change=change))
    assert data.classes == ("dog", "cat")
    assert "left out, as they have no object and another's name: 1 category, dog (id 7)" in data.notes


def test_masks_need_segmentations_and_boxes_can_be_made_of_them(tmp_path):
    data = build(coco(tmp_path, change=lambda w: [a.pop("bbox") for a in w["annotations"]]), annotation="masks")
    assert (annotation(data.splits["train"], "1.jpg") == 2).sum() == 48
    data = build(tmp_path)
    assert boxes(data.splits["train"], "1.jpg") == [(1, 2, 9, 8, 1)]
    assert "without bbox: 8 annotations; their boxes are those around their segmentations" in data.notes

    def runs(whole):
        counts = [0, SIZE[0] * 3, SIZE[0] * (SIZE[1] - 3)]  # the first three columns
        each("annotations", bbox=[], segmentation={"size": list(SIZE), "counts": counts})(whole)

    assert boxes(build(coco(tmp_path, change=runs)).splits["train"], "1.jpg") == [(0, 0, 3, 20, 1)]
    one = coco(tmp_path, change=lambda w: w["annotations"][0].pop("segmentation"))
    assert "left out, as they have no segmentation: 2 annotations" in build(one, annotation="masks").notes


def test_only_crowds_are_refused_with_a_flag_that_works(tmp_path):
    coco(tmp_path, change=each("annotations", iscrowd=1))
    assert "all 4 training boxes are crowds or difficult, from which nothing is learned" in problem(layout, tmp_path)
    assert not build(tmp_path, crowds="objects").splits["train"].annotation(0).crowd.any()


def test_what_no_json_names_is_counted(tmp_path):
    root = coco(tmp_path, ("train", "val", "test"))
    (root / "annotations" / "instances_val2017.json").unlink()
    whole = json.loads((root / "annotations" / "instances_test2017.json").read_text())
    (root / "annotations" / "instances_test2017.json").write_text(
        json.dumps({**whole, "images": [], "annotations": []})
    )
    data = build(root)
    assert parts(data) == {"train": 3, "val": 1}
    assert "instances_test2017.json names no images: it is as if it were not there" in data.notes
    assert "left out, as no JSON names them: 8 images, the first test2017/0.jpg" in data.notes


def test_parts_by_the_names_of_files_and_folders(tmp_path):
    for folder in ("Training", "validation", "TEST"):
        whole = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "x"}]}
        for i in range(2):
            make_image(tmp_path / folder / f"{i}.jpg", i)
            whole["images"].append({"id": i, "file_name": f"{i}.jpg"})
            whole["annotations"].append({"id": i, "image_id": i, "category_id": 1, "bbox": [1, 1, 5, 5]})
        (tmp_path / folder / "_annotations.coco.json").write_text(json.dumps(whole))
    assert parts(build(tmp_path)) == {"train": 2, "val": 2, "test": 2}


def test_links_out_of_the_folder(tmp_path):
    root = coco(tmp_path / "set")
    os.rename(root / "train2017", tmp_path / "store")
    (root / "train2017").symlink_to(tmp_path / "store")
    told = problem(layout, root)
    assert "left out, as they are links out of the folder: 4 images" in told
    assert "--data.follow-links" in told
    assert parts(build(root, follow_links=True)) == {"train": 4, "val": 4}
    assert np.asarray(build(root, follow_links=True).splits["train"].read(0)).shape == (*SIZE, 3)
