"""A start looks at a sample: which images, what is kept of it, and what `vitrail check` adds."""

import numpy as np
import pytest

from vitrail.assembly.opening import surveyed
from vitrail.data.dataset import ArrayReader, Dataset, Entry, Split
from vitrail.data.survey import sample
from vitrail.data.survey.images import survey_images
from vitrail.data.survey.record import SurveyRecord, digest_of, from_text, to_table
from vitrail.data.survey.sample import choose_sample, hash_names
from vitrail.errors import BadImage
from vitrail.storage.json_text import to_json

BROKEN = {"train/17.png", "val/3.png"}


class Reader:
    """Images of two sizes, all different; of files, as far as a survey knows."""

    def __init__(self, names):
        self.names = names

    def __call__(self, index):
        if self.names[index] in BROKEN:
            raise BadImage(f"{self.names[index]} is truncated")
        return np.random.default_rng(index).integers(0, 256, (8 + index % 2, 9, 3), dtype=np.uint8)


def data(train=60, val=30, **more):
    names = {"train": [f"train/{i}.png" for i in range(train)], "val": [f"val/{i}.png" for i in range(val)]}
    splits = {part: Split(own, np.arange(len(own)) % 2, Reader(own)) for part, own in names.items()}
    entries = tuple(Entry(name, 1, 1) for own in names.values() for name in own)
    return Dataset("imagefolder", ("a", "b"), splits, 3, entries, **more)


@pytest.fixture
def small(monkeypatch, tmp_path):
    monkeypatch.setattr(sample, "SAMPLE", 20)
    monkeypatch.setattr(surveyed, "SAMPLE", 20)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_sample_is_by_hash_three_quarters_from_train_and_hardly_changes(small):
    chosen = choose_sample(data())
    assert [len(chosen[part]) for part in ("train", "val")] == [15, 5]
    assert all((np.diff(own) > 0).all() for own in chosen.values())
    hashes = hash_names(data().splits["train"].names)
    assert set(chosen["train"]) == set(np.argsort(hashes)[:15])
    more = choose_sample(data(train=61))["train"]
    assert len(set(more) & set(chosen["train"])) >= 14
    assert [len(own) for own in choose_sample(data(3, 30)).values()] == [3, 17]
    assert [len(own) for own in choose_sample(data(30, 2)).values()] == [18, 2]
    assert [len(own) for own in choose_sample(data(12, 8)).values()] == [12, 8], "no more than a sample: all"


def test_copies_of_one_name_in_two_parts_are_both_looked_at():
    names = [f"train/{i}.png" for i in range(5000)]
    own, theirs = hash_names(names), hash_names([name.replace("train", "val") for name in names])
    assert (own >> np.uint64(32) == theirs >> np.uint64(32)).all()
    assert set(np.argsort(own)[:50]) == set(np.argsort(theirs)[:50])
    assert np.histogram(own.astype(float), 8)[0].min() > 500, "spread evenly"


def test_images_in_memory_are_all_read(small):
    pixels = np.zeros((50, 4, 4, 3), np.uint8)
    split = Split([str(i) for i in range(50)], np.arange(50) % 2, ArrayReader(pixels))
    assert survey_images(Dataset("npz", ("a", "b"), {"train": split}, 3), whole=False).is_whole


def test_a_survey_of_a_sample_is_that_of_its_images_and_defaults_do_not_change_with_what_was_read(small):
    some, whole = survey_images(data(), whole=False), survey_images(data())
    assert (some.read, some.is_whole, some.content) == (20, False, "")
    assert (whole.read, whole.is_whole) == (90, True)
    assert some.sample == whole.sample
    assert some.sample.images == 15
    assert (some.mean, some.std, some.sizes) == (some.sample.mean, some.sample.std, some.sample.sizes)
    assert whole.mean != some.mean
    assert {bad.name for bad in whole.corrupt} == BROKEN
    at = {part: set(own.tolist()) for part, own in choose_sample(data()).items()}
    assert {bad.name for bad in some.corrupt} == {n for n in BROKEN if int(n.split("/")[1][:-4]) in at[n.split("/")[0]]}
    assert some.images == whole.images


def test_a_survey_round_trips_as_text():
    found = survey_images(data(train=7, val=4))
    record = SurveyRecord(found, found.corrupt[:1])
    text = to_json(to_table(record))
    again = from_text(text)
    assert again == record
    assert type(again.survey.corrupt[0]) is type(found.corrupt[0])
    for other in ("", "{}", "[]", text.replace("corrupt", "other"), text[:-9]):
        with pytest.raises(ValueError, match=r".*"):
            from_text(other)


def test_a_start_reads_the_sample_once_and_takes_what_check_found(small, monkeypatch):
    calls = []
    real = surveyed.survey_images
    monkeypatch.setattr(surveyed, "survey_images", lambda *a, **k: calls.append(1) or real(*a, **k))
    one, two = (surveyed.survey_data(data(), {"path": "x"}, whole=False) for _ in range(2))
    assert one == two
    assert len(calls) == 1
    assert surveyed.describe_survey(one.survey)[0].startswith("looked at 20 images of 90, chosen by the hash of")
    whole = survey_images(data())
    surveyed.keep_survey(data(), {"path": "y"}, whole, ())  # as `vitrail check` does
    found = surveyed.survey_data(data(), {"path": "x"}, whole=False).survey
    assert found == whole
    assert surveyed.describe_survey(found) == []
    assert len(calls) == 1


def test_a_survey_of_data_that_has_changed_is_not_used(small):
    before = digest_of(data(), {})
    assert digest_of(data(), {}) == before
    touched = tuple(entry._replace(modified=2) for entry in data().entries)
    others = [
        data(train=61),
        Dataset(**{**vars(data()), "entries": touched}),
        Dataset(**{**vars(data()), "classes": ("a", "c")}),
    ]
    assert before not in {digest_of(other, {}) for other in others}
    assert before != digest_of(data(), {"tile": 512})
    assert before == digest_of(data(), {"path": "elsewhere"})
    generated = Dataset(**{**vars(data()), "entries": ()})
    assert surveyed.record_path(generated, {}) == ""
    swapped = data()
    swapped.splits["train"].labels[:2] = swapped.splits["train"].labels[:2][::-1].copy()
    assert digest_of(swapped, {}) != before
