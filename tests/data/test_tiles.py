"""Tiles cover their image, boxes lie in them where they should, and what is found in them becomes one object again."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrail.data.annotations import tiles
from vitrail.data.annotations.boxes import as_boxes, pack_boxes
from vitrail.data.annotations.tiles import INSIDE, merge_boxes, tile_positions, tile_split, touches_border
from vitrail.data.dataset import ArrayReader, Split
from vitrail.errors import UsageError

sides = st.integers(1, 90)


@settings(deadline=None)
@given(sides, sides, st.integers(1, 40), st.floats(0, 0.9))
def test_tiles_cover_the_image_and_stay_in_it(height, width, tile, overlap):
    seen = np.zeros((height, width), int)
    found = tile_positions((height, width), tile, overlap)
    for left, top, right, bottom in found:
        assert (right - left, bottom - top) == (min(tile, width), min(tile, height))
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        seen[top:bottom, left:right] += 1
    assert seen.all()
    assert len(np.unique(found, axis=0)) == len(found)


def image(height, width):
    return np.arange(height * width * 3, dtype=np.uint32).reshape(height, width, 3).astype(np.uint8)


def split(corners, size=(40, 60)) -> Split:
    boxes = as_boxes(corners, list(range(len(corners))), [False] * len(corners))
    return Split(["a.png"], np.zeros(1, np.int64), ArrayReader(image(*size)[None]), pack_boxes([boxes]))


def test_a_tile_is_a_part_of_its_image_with_the_boxes_of_that_part():
    parts = tile_split(split([(2, 2, 6, 6), (8, 30, 18, 40)]), [(40, 60)], 20, 0.5)
    assert parts.names[:2] == ["a.png [0,0]", "a.png [10,0]"]
    assert len(parts) == 3 * 5
    by_name = {name: i for i, name in enumerate(parts.names)}
    for name, left, top in (("a.png [10,0]", 10, 0), ("a.png [40,20]", 40, 20)):
        assert (parts.read(by_name[name]) == image(40, 60)[top : top + 20, left : left + 20]).all()
    assert parts.annotation(by_name["a.png [0,0]"]).boxes.tolist() == [[2, 2, 6, 6]]
    assert parts.annotation(by_name["a.png [0,20]"]).boxes.tolist() == [[8, 10, 18, 20]]
    cut = parts.annotation(by_name["a.png [10,20]"])  # eight tenths of the box
    assert (cut.boxes.tolist(), cut.labels.tolist()) == ([[0, 10, 8, 20]], [1])
    again = pickle.loads(pickle.dumps(parts))  # noqa: S301 - what a worker process receives
    assert (again.read(7) == parts.read(7)).all()
    assert again.annotation(7).boxes.tolist() == parts.annotation(7).boxes.tolist()


def test_tiles_without_boxes_go_where_that_is_asked_for():
    whole = split([(2, 2, 6, 6)])
    kept = tile_split(whole, [(40, 60)], 20, 0.0, empty=False)
    assert kept.names == ["a.png [0,0]"]
    assert len(tile_split(whole, [(40, 60)], 20, 0.0)) == 6
    with pytest.raises(UsageError, match="overlap"):
        tile_split(whole, [(40, 60)], 20, 1.0)


def test_an_image_that_cannot_be_read_stays_one():
    parts = tile_split(split([(2, 2, 6, 6)]), [None], 20, 0.0)
    assert parts.names == ["a.png [0,0]"]


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0, 30), st.floats(1, 10), st.floats(1, 10)), max_size=6))
def test_with_enough_overlap_every_box_is_whole_in_some_tile(drawn):
    corners = [(x, y, x + w, y + h) for x, y, w, h in drawn]
    parts = tile_split(split(corners), [(40, 60)], 20, 0.5)
    sizes = dict.fromkeys(range(len(corners)), 0.0)
    for i in range(len(parts)):
        own = parts.annotation(i)
        assert (own.boxes >= 0).all()
        assert (own.boxes <= 20).all()
        for label, box in zip(own.labels.tolist(), own.boxes, strict=True):
            area = float((box[2:] - box[:2]).prod())
            full = drawn[label][2] * drawn[label][3]
            assert area >= INSIDE * full * 0.99 - 0.01
            sizes[label] = max(sizes[label], area / full)
    assert all(share == pytest.approx(1, abs=0.01) for share in sizes.values())


def found(rows):
    boxes = torch.tensor([r[:4] for r in rows], dtype=torch.float32).reshape(-1, 4)
    return boxes, torch.tensor([r[4] for r in rows]), torch.tensor([r[5] for r in rows], dtype=torch.int64)


def test_an_object_found_in_two_tiles_is_one_and_of_each_class_for_itself():
    boxes, scores, labels = found(
        [(0, 0, 10, 10, 0.8, 0), (0, 0, 10, 11, 0.9, 0), (0, 0, 10, 10, 0.7, 1), (50, 50, 60, 60, 0.2, 0)]
    )
    assert merge_boxes(boxes, scores, labels, 0.5).tolist() == [1, 2, 3]
    empty, none, nothing = found([])
    assert merge_boxes(empty, none, nothing, 0.5).tolist() == []


def test_a_whole_box_wins_over_one_that_was_cut():
    # the first ends at the border of its tile, the second is the same object seen whole in the next tile, with a lower
    # score
    boxes, scores, labels = found([(5, 5, 20, 20, 0.9, 0), (5, 5, 24, 20, 0.6, 0), (0, 30, 4, 34, 0.5, 0)])
    cut = touches_border(boxes, (0, 0, 20, 40), (40, 60))
    assert cut.tolist() == [True, True, False]
    cut = torch.tensor([True, False, False])
    assert merge_boxes(boxes, scores, labels, 0.5, cut).tolist() == [1, 2]
    # a small piece of it overlaps too little to be suppressed as such, and lies within the whole one
    boxes, scores, labels = found([(5, 5, 8, 20, 0.9, 0), (5, 5, 24, 20, 0.6, 0)])
    assert merge_boxes(boxes, scores, labels, 0.5, torch.tensor([True, False])).tolist() == [1]
    assert merge_boxes(boxes, scores, labels, 0.5).tolist() == [0, 1]


def test_the_border_of_the_image_cuts_nothing():
    boxes = torch.tensor([[0, 0, 5, 5], [15, 5, 20, 9], [55, 35, 60, 40]], dtype=torch.float32)
    assert touches_border(boxes[:2], (0, 0, 20, 20), (40, 60)).tolist() == [False, True]
    assert touches_border(boxes[2:], (40, 20, 60, 40), (40, 60)).tolist() == [False]


def test_whole_images_are_read_once_while_they_fit(monkeypatch):
    asked = []

    def read(index):
        asked.append(index)
        return np.full((10, 10, 3), index, np.uint8)

    monkeypatch.setattr(tiles, "CACHE_BYTES", 2 * 300)
    recent = tiles.RecentImages(read)
    assert [int(recent(i)[0, 0, 0]) for i in (0, 1, 0, 1)] == [0, 1, 0, 1]
    assert asked == [0, 1]
    recent(2)  # the third takes the place of the one that was asked for longest ago
    recent(1)
    recent(0)
    assert asked == [0, 1, 2, 0]
    monkeypatch.setattr(tiles, "CACHE_BYTES", 1)
    recent(3)
    recent(3)  # larger than all that is kept, and still not read twice in a row
    assert asked == [0, 1, 2, 0, 3]
