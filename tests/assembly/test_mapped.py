"""Names of masks and boxes: mapped from a file, of which a worker process is sent the place."""

import os
import pickle

import dense_data
import numpy as np
import pytest

from vitrail.assembly.data import open_data
from vitrail.assembly.opening import mapped, opened
from vitrail.data.dataset import join_splits
from vitrail.data.index.arrays import MappedArray
from vitrail.data.index.names import Names
from vitrail.recipe import DataConfig


def load(sent):
    """What a worker process gets."""
    return pickle.loads(sent)  # noqa: S301


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """60 images with masks; a list of ten names is long."""
    monkeypatch.setattr(opened, "LEAST", 10)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for i in range(60):
        name = f"{i:03d} {'a long name ' * 8}"
        dense_data.make_image(tmp_path / "data" / "images" / f"{name}.jpg", i)
        dense_data.mask(tmp_path / "data" / "masks" / f"{name}.png", dense_data.halves(0, 1))
    return tmp_path / "data"


def look(folder):
    return open_data(DataConfig("masks", {"path": str(folder)}))[0]


def same(one, other):
    assert list(one.names) == list(other.names)
    for i in range(len(one)):
        np.testing.assert_array_equal(one.read(i), other.read(i))
        np.testing.assert_array_equal(one.annotation(i), other.annotation(i))


def test_a_worker_is_sent_the_place_of_names_that_it_maps(folder, monkeypatch):
    plain = look(folder)
    assert type(plain.splits["train"].names) is list, "not worth it for a few"
    monkeypatch.setattr(mapped, "LEAST", 10)
    split = look(folder).splits["train"]
    sent = pickle.dumps(split)
    assert len(sent) < len(pickle.dumps(plain.splits["train"])) / 4
    for one in (split, load(sent)):
        same(one, plain.splits["train"])
        assert all(isinstance(names, Names) for names in (one.names, one.read.names, one.annotation.masks))
        assert isinstance(one.annotation.masks.text, MappedArray)
    assert split.annotation.images is split.names is split.read.names, "one list stays one"
    part = join_splits([split.select(np.array([7, 3])), split])
    same(part.select(np.array([1])), plain.splits["train"].select(np.array([3])))
    before = sorted((folder.parent / "cache").rglob("*.names"))
    look(folder)
    assert sorted((folder.parent / "cache").rglob("*.names")) == before, "of the same names one file is kept"


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_cache_that_cannot_be_written_costs_memory_alone(folder, monkeypatch):
    plain = look(folder)
    monkeypatch.setattr(mapped, "LEAST", 10)
    (folder.parent / "cache").chmod(0o500)
    same(look(folder).splits["val"], plain.splits["val"])


def test_names_that_could_not_be_kept_are_arrays_in_memory(folder, monkeypatch):
    plain = look(folder)
    monkeypatch.setattr(mapped, "LEAST", 10)
    monkeypatch.setattr(mapped, "keep_file", lambda *_: False)
    split = look(folder).splits["train"]
    assert not isinstance(split.names.text, MappedArray)
    same(load(pickle.dumps(split)), plain.splits["train"])
