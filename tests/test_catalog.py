"""Names to modules: the folder is the registry, a list costs no import, a wrong name is answered with the nearest."""

import dataclasses
import sys

import pytest

from vitrail import catalog
from vitrail.errors import DataError, UsageError


@pytest.mark.parametrize("floor", ["models", "datasets", "tasks"])
def test_every_file_on_a_floor_is_found(floor):
    assert catalog.list_modules(floor)
    for room in catalog.list_modules(floor):
        found = catalog.load_module(floor, room)
        assert found.__name__ == f"vitrail.{floor}.{room}"
        assert catalog.config_fields(floor, room) in (
            [f.name for f in dataclasses.fields(found.Config)],
            [],
        )  # none where it is another's
    assert catalog.config_fields("models", "vit")


def test_the_list_read_from_the_source_is_the_table():
    listed = catalog.list_names("models")
    made = [
        f"{room}/{variant}"
        for room in catalog.list_modules("models")
        for variant in catalog.load_module("models", room).VARIANTS
    ]
    assert listed == made
    assert len(set(listed)) == len(listed)
    for name in listed:
        assert dataclasses.is_dataclass(catalog.load_config("models", name))


def test_a_room_has_its_default_config():
    assert catalog.load_config("datasets", "imagefolder").path == ""
    assert catalog.load_config("tasks", "classification").classes == 0


WRONG = {
    ("models", "vti/nano"): "unknown model family 'vti'; did you mean .*'vit'",
    ("models", "VIT/nano"): "did you mean 'vit'",
    ("models", "vit/nono"): "did you mean 'vit/nano'",
    ("models", "vit/Base"): "did you mean 'vit/base'",
    ("models", "vit"): "did you mean vit/nano",
    ("models", "nano"): "did you mean .*vit/nano",
    ("models", "vit_base"): "vit/base",
    ("models", "vit/"): "not the whole name",
    ("models", "/"): "unknown model family|not the whole name",
    ("models", ".."): "did you mean|models lists|no module",
    ("models", "../vit/nano"): "unknown model family|no module",
    ("models", "__init__/x"): "unknown model family",
    ("models", "nobody.here/x"): "a module that a file names is never imported",
    ("models", "os.path/x"): "has no Config and no build",
    ("tasks", "clasification"): "did you mean 'classification'",
    ("datasets", "imagefoldr"): "did you mean 'imagefolder'",
}


@pytest.mark.parametrize(("floor", "name"), WRONG)
def test_did_you_mean(floor, name):
    with pytest.raises(UsageError, match=WRONG[floor, name]):
        catalog.load_config(floor, name)


@pytest.mark.parametrize("name", [None, 3, ["vit/base"]])
def test_a_name_is_a_text(name):
    with pytest.raises(UsageError, match="a name is a text"):
        catalog.load_config("models", name)


HOUSE = '''"""A model of somebody's own."""
from dataclasses import dataclass

from vitrail.models import vit


@dataclass(frozen=True)
class Config(vit.Config):
    width: int = 32
    heads: int = 2
    depth: int = 1


VARIANTS = {"small": Config()}


def build(config):
    return vit.build(config)
'''


def test_a_module_from_outside_the_house(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "own.py").write_text(HOUSE)
    monkeypatch.syspath_prepend(tmp_path)
    import vitrail

    try:
        made = vitrail.create("mine.own/small", classes=2, size=16, patch=4)
        assert made.backbone.config.width == 32
        with pytest.raises(UsageError, match=r"did you mean 'mine\.own/small'"):
            vitrail.create("mine.own/smal")
        with pytest.raises(UsageError, match="there is no module"):
            vitrail.create("mine.owm/small")
        with pytest.raises(UsageError, match=r"unknown key 'dept' in mine\.own/small"):
            vitrail.create("mine.own/small", dept=2)
    finally:
        for name in ("mine", "mine.own"):
            sys.modules.pop(name, None)


def test_layouts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("images", "mini", "idx"):
        (tmp_path / name).mkdir()
    for name in ("t.csv", "t.TSV", "x.npz", "idx/train-images-idx3-ubyte.gz", "x.png"):
        (tmp_path / name).write_bytes(b"")
    found = {
        p: catalog.detect_layout(p)
        for p in ("mini", "./mini", "images", "images/", "t.csv", "t.TSV", "x.npz", "idx", str(tmp_path))
    }
    assert found == {
        "mini": "mini", "./mini": "imagefolder", "images": "imagefolder", "images/": "imagefolder", "t.csv": "table",
        "t.TSV": "table", "x.npz": "npz", "idx": "idx", str(tmp_path): "images",
    }  # fmt: skip
    with pytest.raises(DataError, match="not a data set that can be read"):
        catalog.detect_layout("x.png")
    with pytest.raises(DataError, match="beside it: images"):
        catalog.detect_layout("image")
    with pytest.raises(UsageError, match="did you mean 'mini'"):
        catalog.detect_layout("minni")
    with pytest.raises(DataError, match=r"there is no .* either"):
        catalog.detect_layout("a/b/c")
    for impossible in ("x" * 5000, "~nobody-here/x", "a\0b"):
        with pytest.raises((UsageError, DataError)):
            catalog.detect_layout(impossible)
