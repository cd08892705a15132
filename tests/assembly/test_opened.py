"""The index of a folder: written once, used as long as nothing has changed, and never where something has."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitrail.assembly import data as opening
from vitrail.assembly.opening import opened
from vitrail.data.index.names import Names
from vitrail.recipe import DataConfig

NOTE = "the folder fits"


def load(sent):
    """What a worker process gets."""
    return pickle.loads(sent)  # noqa: S301


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """40 images in a folder below the given one, old enough to be indexed; an index pays off from 10 files on."""
    monkeypatch.setattr(opened, "LEAST", 10)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "given" / "inner"
    for part, count in (("train", 14), ("val", 6)):
        for name in ("a", "b ä"):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.random.default_rng(i).integers(0, 256, (6, 6, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{i}.png")
    (root / "train" / "a" / "notes.txt").write_text("x")
    (root / "train" / ".hidden").write_text("x")
    age(tmp_path / "given")
    return root


def age(root: Path) -> None:
    for path in [*root.rglob("*"), root]:
        os.utime(path, (1e9, 1e9))


def look(folder: Path, name: str = "") -> tuple[object, bool]:
    """The data set, and whether it came from an index."""
    walked = []
    real = opening.catalog.load_module("datasets", "imagefolder").list_images
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vitrail.datasets.imagefolder.list_images", lambda *a, **k: walked.append(1) or real(*a, **k))
        dataset = opening.open_data(DataConfig(name, {"path": str(folder)}))[0]
    return dataset, not walked


def facts(dataset):
    return (
        dataset.layout, dataset.classes, dataset.channels, dataset.kind, list(dataset.entries), dataset.notes,
        {part: (list(s.names), s.labels.tolist(), [s.read(i).tolist() for i in range(len(s))])
         for part, s in dataset.splits.items()},
    )  # fmt: skip


def test_the_second_start_walks_nothing_and_has_the_same_data(folder):
    (first, one), (second, two), (third, three) = look(folder), look(folder), look(folder.parent)
    assert (one, two, three) == (False, True, False)
    assert facts(first) == facts(second)
    assert isinstance(second.splits["train"].names, Names)
    assert any("hidden" in note for note in second.notes)
    wrapped, again = look(folder.parent)
    assert again
    assert facts(wrapped) == facts(third)
    assert "holds one folder only" in wrapped.notes[0]


def test_a_resume_names_the_layout_and_uses_the_same_index(folder):
    look(folder)
    dataset, indexed = look(folder, "imagefolder")
    assert indexed
    assert facts(dataset)[:5] == facts(look(folder)[0])[:5]


def add(root):
    Image.new("RGB", (6, 6)).save(root / "train" / "a" / "new.png")


def remove(root):
    (root / "val" / "a" / "3.png").unlink()


def rename(root):
    (root / "val" / "a" / "3.png").rename(root / "val" / "a" / "x.png")


def touch(root):
    os.utime(root / "val" / "a" / "3.png", (1e9 + 50, 1e9 + 50))


def rewrite(root):
    Image.new("RGB", (6, 6)).save(root / "train" / "a" / "3.png")


def describe(root):
    (root / "train" / "a" / "notes.txt").write_text("another")


def hide(root):
    (root / "train" / ".hidden").unlink()


def replace(root):
    (root / "val" / "a").rename(root / "val" / "away")
    os.utime(root / "val", (1e9, 1e9))


def add_class(root):
    (root / "train" / "c").mkdir()


@pytest.mark.parametrize(
    "change", [add, remove, rename, touch, rewrite, describe, hide, replace, add_class], ids=lambda f: f.__name__
)
def test_whatever_changes_is_walked_again(folder, change):
    before = facts(look(folder)[0])
    assert look(folder)[1]
    change(folder)
    if change is replace:
        with pytest.raises(Exception, match="away"):
            look(folder)
        return
    dataset, indexed = look(folder)
    assert not indexed
    assert (facts(dataset) == before) == (change in (describe,))
    if change is not add_class:  # what is a moment old may change again
        age(folder)
        look(folder)
        assert look(folder)[1]


def test_what_has_just_been_written_is_not_trusted(folder):
    (folder / "val" / "a" / "1.png").touch()
    assert [look(folder)[1] for _ in range(2)] == [False, False]
    assert not list((Path(os.environ["XDG_CACHE_HOME"]) / "vitrail").rglob("*.index"))


def test_a_damaged_index_or_no_cache_is_as_good_as_none(folder, monkeypatch, tmp_path):
    expected = facts(look(folder)[0])
    (path,) = (Path(os.environ["XDG_CACHE_HOME"]) / "vitrail" / "data").glob("*.index")
    whole = path.read_bytes()
    path.write_bytes(whole[:-40] + bytes([whole[-40] ^ 1]) + whole[-39:])
    dataset, indexed = look(folder)
    assert not indexed
    assert facts(dataset) == expected
    assert look(folder)[1], "it was written again"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert facts(look(folder)[0]) == expected


def test_workers_get_the_place_of_the_names_and_no_copy(folder):
    look(folder)
    split = look(folder)[0].splits["train"]
    sent = pickle.dumps(split)
    assert b"13.png" not in sent
    again = load(sent)
    assert list(again.names) == list(split.names)
    assert (again.read(5) == split.read(5)).all()
    part = split.select(np.array([4, 2]))
    assert list(part.names) == [split.names[4], split.names[2]]
    assert (load(pickle.dumps(part)).read(0) == split.read(4)).all()


def test_old_indices_are_removed(folder, monkeypatch):
    monkeypatch.setattr(opened, "NEWEST", 1)
    for _ in range(2):
        look(folder)
        touch(folder)
        age(folder)
        (folder / "val" / "a" / "3.png").write_bytes((folder / "val" / "a" / "2.png").read_bytes())
        age(folder)
    look(folder)
    assert len(list((Path(os.environ["XDG_CACHE_HOME"]) / "vitrail" / "data").glob("*.index"))) == 1
