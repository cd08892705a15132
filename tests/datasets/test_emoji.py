"""The bundled emoji: which images, parts and captions there are, as `benchmarks/make_emoji.py` made them."""

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from make_emoji import concept_of, part_of

from vitrail.assembly.data import open_data
from vitrail.datasets import emoji
from vitrail.errors import UsageError
from vitrail.recipe import DataConfig


@pytest.fixture(scope="module")
def data():
    return emoji.build(emoji.Config())


def row_of(data, name):
    return next((split, i) for split in data.splits.values() for i, one in enumerate(split.names) if one.endswith(name))


def test_the_images_are_those_that_were_made(data):
    assert {part: split.array.shape for part, split in data.splits.items()} == {
        "train": (1696, 64, 64, 3), "test": (196, 64, 64, 3),
    }  # fmt: skip
    assert (data.kind, data.channels, len(data.classes)) == ("captions", 3, 9)
    digest = hashlib.sha256(b"".join(split.array.tobytes() for split in data.splits.values())).hexdigest()
    assert digest == "1709048ad623ea770858e009fdf19f4d78e0b0a21e91357ecf4fa99adabaf202"
    split, i = row_of(data, "/2764")
    assert split.annotation(i)[:2] == ("red heart", "алое сердце")
    red, green, blue = split.array[i][20:44, 20:44].reshape(-1, 3).mean(0)
    assert red > 200 > 100 > max(green, blue)
    assert (split.array[i][0, 0] == 255).all()
    assert data.classes[split.labels[i]] == "smileys and emotion"


def test_parts_are_of_whole_concepts(data):
    parts = {}
    for part, split in data.splits.items():
        for name in split.names:
            code = name.partition("/")[2]
            assert part_of(code) == part
            parts.setdefault(concept_of(code), set()).add(part)
    assert Counter(map(len, parts.values())) == {1: len(parts)}
    assert concept_of("1F3C3-200D-2640") == concept_of("1F3C3-200D-27A1") == "1F3C3"
    assert concept_of("1F469-200D-1F692") == concept_of("1F9D1-200D-1F692") != concept_of("1F692")


@pytest.mark.parametrize(
    ("keys", "captions"),
    [
        ({}, ("cat", "кошка", "animal, animals, cats, kitten, pet", "животное, кот, котенок, питомец")),
        ({"tags": False}, ("cat", "кошка")),
        ({"tags": False, "languages": ("ru",)}, ("кошка",)),
        ({"languages": ("ru", "en"), "tags": False}, ("кошка", "cat")),
    ],
)
def test_captions_are_names_and_tags_in_the_languages_that_are_asked_for(keys, captions):
    split, i = row_of(emoji.build(emoji.Config(**keys)), "/1F408")
    assert split.annotation(i) == captions
    assert all(split.annotation(j) for j in range(len(split)))


def test_groups_are_its_classes_where_a_task_learns_from_classes():
    dataset, choice = open_data(DataConfig("", {"path": "emoji"}), "classes")
    assert (dataset.kind, choice.keys["annotation"]) == ("classes", "classes")
    assert dataset.classes[0] == "smileys and emotion"
    assert all(split.annotation is None for split in dataset.splits.values())
    assert np.bincount(dataset.splits["test"].labels, minlength=9).min() >= 8


def test_other_languages_are_refused():
    for languages in ((), ("en", "fr")):
        with pytest.raises(UsageError, match=r"data\.languages is (en fr|nothing)"):
            emoji.build(emoji.Config(languages=languages))


def test_it_is_small_and_carries_its_licences():
    files = {p.name: p for p in Path(emoji.__file__).parent.iterdir() if p.is_file()}
    assert sum(p.stat().st_size for p in files.values()) < 4_000_000
    for name, text in {
        "LICENSE.noto-emoji": "Apache License", "LICENSE.emoji-datasource": "Cal Henderson",
        "LICENSE.emojibase-data": "Miles Johnson",
    }.items():  # fmt: skip
        assert text in files[name].read_text(encoding="utf-8")
