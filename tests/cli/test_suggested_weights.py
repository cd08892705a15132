"""Few images and no weights: `check` and `train` say that published weights would help, with the command."""

import shlex
from pathlib import Path

import pytest
from places import SHORT, images, vitrail

from vitrail import weights
from vitrail.assembly import defaults
from vitrail.recipe import DataConfig
from vitrail.tasks._defaults.classes import ClassDefaults
from vitrail.tasks._defaults.dense import BoxDefaults, MaskDefaults
from vitrail.tasks._defaults.generation import GenerationDefaults

TABLE = (Path(weights.__file__).parent / "published.toml").read_text(encoding="utf-8")
WORD = "training images are few; published weights would help"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return images(tmp_path_factory.mktemp("of") / "my photos", each=30)


def hint(text):
    """The command after the words; "" without them."""
    return next((line.rpartition(": ")[2] for line in text.splitlines() if WORD in line), "")


def test_both_suggest_the_same_command_which_parses_as_printed(folder):
    checked = hint(vitrail("check", folder)[1])
    assert checked == hint(vitrail("train", "--data", folder, *SHORT, "--dry-run")[1])
    words = shlex.split(checked)
    assert words == ["vitrail", "train", "--data", str(folder), "--weights", "vit/tiny"]
    code, _, err = vitrail(*words[1:-1], folder / "none", "--dry-run")  # the words are those of train; no network here
    assert code in (2, 4)
    assert "none" in err


def test_none_where_weights_are_given_or_images_are_many(folder, tmp_path, monkeypatch):
    assert vitrail("train", "--data", folder, *SHORT, "--out", tmp_path / "run")[0] == 0
    assert not hint(vitrail("train", "--data", folder, "--weights", tmp_path / "run", "--steps", 2, "--dry-run")[1])
    monkeypatch.setattr(defaults, "SMALL", 40)
    assert not hint(vitrail("check", folder)[1])


def test_by_task_and_device():
    few, where = 4_999, DataConfig("", {"path": "a b", "tile": 3})
    assert defaults.suggest_weights(where, few, ClassDefaults(), False).endswith(
        "vitrail train --data 'a b' --data.tile 3 --weights vit/tiny"
    )
    assert defaults.suggest_weights(where, few, ClassDefaults(), True).endswith("--weights vit/small")
    assert not defaults.suggest_weights(where, 5_000, ClassDefaults(), False)
    assert not defaults.suggest_weights(where, few, GenerationDefaults(), False)
    for own in (ClassDefaults, MaskDefaults, BoxDefaults):
        assert all(f'"{name}:' in TABLE for name in own.published)
