"""Shapes are the same everywhere for a seed, their boxes are those of what can be seen, and their names are told
apart."""

import hashlib
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrail import catalog
from vitrail.datasets import shapes
from vitrail.errors import UsageError


def build(path="shapes", **keys):
    return shapes.build(shapes.Config(path, **{"count_train": 12, "count_val": 4, "count_test": 4, **keys}))


def test_masks_and_boxes_of_the_same_images():
    masks, boxes = build(), build("shapes-boxes")
    assert (masks.kind, boxes.kind) == ("masks", "boxes")
    assert (masks.classes, boxes.classes) == (
        ("background", "disc", "square", "triangle"),
        ("disc", "square", "triangle"),
    )
    for part, count in (("train", 12), ("val", 4), ("test", 4)):
        one, two = masks.splits[part], boxes.splits[part]
        assert len(one) == len(two) == count
        assert (one.array == two.array).all()
        for i in range(count):
            mask, found = one.annotation(i), two.annotation(i)
            assert 1 <= len(found.labels) <= 4
            assert set(np.unique(mask)) - {0} == {label + 1 for label in found.labels.tolist()}
            inside = np.zeros(mask.shape, bool)
            for left, top, right, bottom in found.boxes.astype(int):
                inside[top:bottom, left:right] = True
            assert inside[mask > 0].all()  # nothing lies outside every box
            assert found.boxes.dtype == np.float32
    assert build(annotation="boxes").kind == build("anywhere/shapes-boxes").kind == "boxes"
    again = pickle.loads(pickle.dumps(boxes.splits["val"]))  # noqa: S301 - what a worker process receives
    assert again.annotation(3).boxes.tolist() == boxes.splits["val"].annotation(3).boxes.tolist()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**40), st.integers(32, 80), st.integers(32, 80))
def test_boxes_are_tight_and_objects_can_be_seen(seed, height, width):
    random = np.random.Generator(np.random.Philox(key=np.array([seed, 0], np.uint64)))
    image, mask, found = shapes.draw_image(random, height, width)
    assert image.shape == (height, width, 3)
    assert len(found.labels) >= 1
    assert (found.boxes[:, :2] >= 0).all()
    assert (found.boxes[:, 2:] <= [width, height]).all()
    for box, label in zip(found.boxes.astype(int), found.labels, strict=True):
        left, top, right, bottom = box
        own = mask[top:bottom, left:right] == label + 1
        assert own.sum() >= 12
        assert own[0].any()
        assert own[-1].any()
        assert own[:, 0].any()
        assert own[:, -1].any()


def test_an_image_hangs_on_seed_part_and_number_alone():
    few, many = build(count_train=3), build(count_train=12, count_val=9)
    assert (few.splits["train"].array == many.splits["train"].array[:3]).all()
    assert not (build(seed=1).splits["train"].array == many.splits["train"].array).all()
    assert not (few.splits["val"].array[:3] == few.splits["train"].array).all()
    assert set(build(count_val=0, count_test=0).splits) == {"train"}
    assert build(size=(40, 70)).splits["test"].array.shape == (4, 40, 70, 3)
    with pytest.raises(UsageError, match="at least 32 pixels"):
        build(size=(64, 16))


def test_the_same_on_every_machine():
    split = build().splits["train"]
    masks = np.stack([split.annotation(i) for i in range(12)])
    assert hashlib.sha256(masks.tobytes()).hexdigest()[:16] == "ca4f7293cc1647b7"


def test_the_names():
    assert (catalog.detect_layout("shapes"), catalog.detect_layout("shapes-boxes")) == ("shapes", "shapes")
    for wrong, meant in (("shape", "shapes"), ("shapes_boxes", "shapes-boxes"), ("minni", "mini")):
        with pytest.raises(UsageError, match=f"did you mean '{meant}'"):
            catalog.detect_layout(wrong)
