"""Images are split by name and seed alone, and what was asked for is what comes out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrail.data.splits import assign_parts, find_part
from vitrail.errors import DataError, UsageError

NAMES = [f"a/{i}.png" for i in range(299)]


def counts(found):
    return {part: len(places) for part, places in found.items()}


def test_counts_shares_and_what_is_usual():
    none = [""] * 299
    found, notes = assign_parts(NAMES, none, (200, 49, 50), 0)
    assert counts(found) == {"train": 200, "val": 49, "test": 50}
    assert sorted(np.concatenate(list(found.values()))) == list(range(299))
    assert notes == ["split by name with seed 0: 200 train, 49 val, 50 test of 299 images"]
    assert counts(assign_parts(NAMES, none, (0.8, 0.1, 0.1), 0)[0]) == {"train": 239, "val": 30, "test": 30}
    assert counts(assign_parts(NAMES, none, (), 0)[0]) == {"train": 239, "val": 60}
    assert counts(assign_parts(NAMES, none, (1, 0), 0)[0]) == {"train": 299}
    found, notes = assign_parts(NAMES, none, (20, 5), 0)
    assert counts(found) == {"train": 20, "val": 5}
    assert "274 are left out" in notes[-1]


@settings(deadline=None)
@given(st.permutations(range(30)), st.integers(0, 5))
def test_the_order_of_the_names_does_not_matter(order, seed):
    names = [NAMES[i] for i in order]
    sets = [
        {part: {n[i] for i in places} for part, places in assign_parts(n, [""] * 30, (), seed)[0].items()}
        for n in (NAMES[:30], names)
    ]
    assert sets[0] == sets[1]


@settings(deadline=None)
@given(st.integers(1, 40), st.sampled_from([(), (0.8, 0.2), (0.5, 0.25, 0.25), (0.98, 0.01, 0.01), (0.3, 0.1)]))
def test_train_is_never_empty_and_no_image_stands_twice(count, split):
    found, _ = assign_parts(NAMES[:count], [""] * count, split, 0)
    places = np.concatenate(list(found.values()))
    assert len(found["train"]) >= 1
    assert len(set(places.tolist())) == len(places) <= count
    if count >= 10:
        assert set(found) == {"train", "val", "test"}.intersection(["train", "val", *(["test"] if split[2:] else [])])


def test_parts_that_the_data_names_are_kept():
    parts = ["train"] * 4 + ["val"] * 2 + [""]
    found, notes = assign_parts(NAMES[:7], parts, (), 0)
    assert {p: v.tolist() for p, v in found.items()} == {"train": [0, 1, 2, 3], "val": [4, 5]}
    assert notes == ["left out, as they belong to no split: 1 image"]
    with pytest.raises(UsageError, match="splits of its own"):
        assign_parts(NAMES[:7], parts, (0.5, 0.5), 0)
    found, _ = assign_parts(
        NAMES[:10], ["train"] * 10, (), 0
    )  # a val part is held out where there is no part to judge by
    assert counts(found) == {"train": 8, "val": 2}
    found, _ = assign_parts(NAMES[:10], ["train"] * 8 + ["test"] * 2, (), 0)
    assert counts(found) == {"train": 8, "test": 2}


def test_test_images_are_never_trained_on():
    assert counts(assign_parts(NAMES[:10], ["test"] * 10, (), 0)[0]) == {"test": 10}
    with pytest.raises(UsageError, match=r"splits of its own\nremove it; there are test"):
        assign_parts(NAMES[:10], ["test"] * 10, (0.5, 0.5), 0)
    assert counts(assign_parts(NAMES[:10], ["test"] * 10, (1, 0), 0)[0]) == {"test": 10}
    found, notes = assign_parts(NAMES[:10], ["val"] * 6 + ["test"] * 4, (), 0)
    assert counts(found) == {"train": 5, "val": 1, "test": 4}
    assert found["test"].tolist() == [6, 7, 8, 9]
    assert notes[0] == "the data names val but no train: its images were split randomly"
    found, _ = assign_parts(NAMES[:10], [""] * 6 + ["test"] * 4, (), 0)
    assert counts(found) == {"train": 5, "val": 1, "test": 4}
    found, notes = assign_parts(NAMES[:10], [""] * 6 + ["val"] * 4, (), 0)
    assert {p: v.tolist() for p, v in found.items()} == {"train": [0, 1, 2, 3, 4, 5], "val": [6, 7, 8, 9]}
    assert notes == ["the data names val but no train: the other 6 images are train"]


PART_NAMES = {
    "train": "train Train TRAINING training_set train2017 train-data trainval Trains trn train_images images_train",
    "val": "val Valid VALIDATION validation-set dev eval evaluation val2014 devset valid2 vals",
    "test": "test TESTING test_set test1 tests test-dev2017 hold_out Test-Images tst",
    "": "cat tram protest contest rain value evaluator deviant detest latest trainer 1 set images",
}


@pytest.mark.parametrize(("part", "names"), PART_NAMES.items())
def test_one_table_of_part_names(part, names):
    assert {name: find_part(name) for name in names.split()} == dict.fromkeys(names.split(), part)


@pytest.mark.parametrize("name", ["a/2.png", "2.png", "2"])
def test_one_image_held_out_by_its_name(name):
    found, _ = assign_parts(NAMES[:4], [""] * 4, (1, 0), 0, name)
    assert {p: v.tolist() for p, v in found.items()} == {"train": [0, 1, 3], "test": [2]}
    assert counts(assign_parts(NAMES[:4], [""] * 4, (), 0, (name,))[0]) == {"train": 2, "val": 1, "test": 1}


def test_what_cannot_be():
    none = [""] * 299
    for split, told in [
        ((0.5,), "2 or 3"),
        ((0, 1), "2 or 3"),
        ((0.9, 0.2), "sum to 1.1"),
        ((300, 1), "there are 299"),
        ((1.5, 2), "whole"),
    ]:
        with pytest.raises(UsageError, match=told):
            assign_parts(NAMES, none, split, 0)
    with pytest.raises(UsageError, match=r"there is no image '298\.jpg'\n.*298"):
        assign_parts(NAMES, none, (), 0, ("298.jpg",))
    with pytest.raises(UsageError, match="takes 2 fractions"):
        assign_parts(NAMES, none, (0.5, 0.3, 0.2), 0, ("1",))
    with pytest.raises(DataError, match="no image is left"):
        assign_parts(NAMES[:1], [""], (), 0, ("0",))
