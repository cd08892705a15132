"""Defaults of training that begins from weights, by what learns, each with its reason; what is typed is kept."""

import dataclasses
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))
import tiny

from vitrail.assembly.defaults import fill_recipe, is_mirrorable
from vitrail.assembly.resolve import Names
from vitrail.facts import Facts
from vitrail.recipe import AugmentConfig, Choice, InitConfig, OptimConfig, Recipe, RuntimeConfig
from vitrail.tasks._defaults.classes import ClassDefaults

TYPED = OptimConfig()


def choose(count=1_250, optim=TYPED, weights="run", new=True, model=("vit/nano", {}), augment=None, task=True):
    """The filled recipe and its reasons in one text."""
    facts = Facts(
        count=count, size=(32, 32), uniform=True, channels=3, mean=(0.5,) * 3, std=(0.2,) * 3, is_mirrorable=True,
        gpu=False, classes=5, is_new_head=new, takes_features=task,
    )  # fmt: skip
    recipe = Recipe(
        model=Choice(*model), optim=optim, init=InitConfig(weights=weights), augment=augment or AugmentConfig()
    )
    filled, reasons = fill_recipe(recipe, facts, ClassDefaults(), Names().model_config)
    return filled, "\n".join(reasons)


def test_all_of_it():
    scratch, _ = choose(weights="", new=False)
    filled, reasons = choose()
    assert (scratch.optim.freeze, scratch.optim.layer_decay, scratch.init.fit_head) == ("none", 1.0, False)
    assert (filled.optim.freeze, filled.optim.layer_decay, filled.init.fit_head) == ("none", 0.75, True)
    assert filled.optim.lr == pytest.approx(scratch.optim.lr / 2, rel=0.1)
    assert filled.model.keys["drop_path"] == 0.0
    assert (filled.augment.crop, filled.augment.hflip, filled.runtime.cache_features) == ("pad", True, None)
    for key in ("optim.freeze", "optim.layer_decay", "init.fit_head", "model.drop_path", "optim.lr"):
        assert key in reasons
    assert choose(count=10_000)[0].model.keys["drop_path"] == 0.1
    assert choose(model=("resnet/18", {}))[0].optim.layer_decay == 0.75


def test_the_same_classes_are_trained_on_as_they_were():
    filled, reasons = choose(new=False)
    assert (filled.optim.freeze, filled.optim.layer_decay, filled.init.fit_head) == ("none", 1.0, False)
    assert "drop_path" not in filled.model.keys
    assert "optim.freeze" not in reasons
    assert "the head is kept, for classes of the same names; --init.head new is for others" in reasons


def test_the_head_alone():
    filled, reasons = choose(optim=OptimConfig(freeze="backbone"), model=("swin/tiny", {}))
    assert filled.optim.lr == pytest.approx(1e-5 * (filled.train.batch_size / 64) ** 0.5, rel=0.1)
    assert (filled.optim.weight_decay, filled.optim.layer_decay, filled.init.fit_head) == (0.0, 1.0, True)
    assert (filled.augment.crop, filled.augment.hflip, filled.runtime.cache_features) == ("none", False, True)
    assert "no crops or shifts" in reasons
    kept, reasons = choose(optim=OptimConfig(freeze="backbone"), augment=AugmentConfig(hflip=True))
    assert (kept.augment.crop, kept.runtime.cache_features) == ("pad", False)
    assert "augment.hflip gives other features in every step" in reasons
    images, _ = choose(optim=OptimConfig(freeze="backbone"), task=False)
    assert (images.augment.crop, images.runtime.cache_features) == ("pad", None), "its loss needs images"


def test_last_blocks_and_gradual():
    blocks, _ = choose(optim=OptimConfig(freeze=2))
    assert (blocks.optim.freeze, blocks.optim.layer_decay, blocks.augment.crop) == (2, 0.75, "pad")
    gradual, reasons = choose(optim=OptimConfig(unfreeze_steps=(5, 9)))
    assert (gradual.optim.freeze, gradual.optim.unfreeze_steps, gradual.init.fit_head) == ("backbone", (5, 9), True)
    assert "what unfreezes is frozen first" in reasons


def test_what_is_typed_is_kept():
    given = OptimConfig(lr=0.5, layer_decay=0.9, freeze="none", weight_decay=0.3)
    filled, _ = choose(optim=given, model=("vit/nano", {"drop_path": 0.4}))
    kept = (filled.optim.lr, filled.optim.layer_decay, filled.optim.weight_decay, filled.model.keys["drop_path"])
    assert kept == (0.5, 0.9, 0.3, 0.4)
    assert filled.init.fit_head is False, "an lr of one's own may be for a random head"


def test_a_new_head_inherits_no_regularisation_and_starts_as_the_probe(tmp_path):
    data = tiny.npz(tmp_path / "data")
    tiny.finish(tiny.begin(tiny.recipe(data, train={"steps": 2}), tmp_path / "first"))
    made = tiny.recipe(data, train={"steps": 2})
    named = dataclasses.replace(made.data, keys={**made.data.keys, "classes": ["ant", "bee", "cat"]})
    made = dataclasses.replace(
        made, data=named, model=Choice(), init=InitConfig(str(tmp_path / "first")), runtime=RuntimeConfig(workers=0)
    )
    session = tiny.begin(made, tmp_path / "second")
    assert session.recipe.model.keys["drop_path"] == 0.0
    assert "dropout" not in session.recipe.model.keys
    assert any("of 48 training images, L2" in note and "cross-validation" in note for note in session.notes)
    same = dataclasses.replace(made, data=tiny.recipe(data).data)
    assert tiny.begin(same, tmp_path / "third").recipe.model.keys["dropout"] == 0.1
    fresh = dataclasses.replace(same, init=dataclasses.replace(same.init, head="new"))
    assert tiny.begin(fresh, tmp_path / "fourth").recipe.init.fit_head is True


def test_random_weights_learn_with_muon_and_others_with_adamw():
    scratch, reasons = choose(weights="", new=False, model=("", {}))
    assert (scratch.model.name, scratch.optim.name) == ("vit/pico", "muon")
    assert "optim.name = muon" in reasons
    assert choose(weights="", new=False, model=("", {}), count=20_000)[0].model.name == "vit/micro"
    assert choose()[0].optim.name == "adamw"
    assert choose(weights="", new=False, optim=OptimConfig(name="sgd"))[0].optim.name == "sgd"
    assert choose(weights="", new=False, optim=OptimConfig(freeze="backbone"))[0].optim.name == "adamw"


def test_sides_and_digits_are_not_mirrored():
    assert is_mirrorable("npz", ("0", "1"))
    assert is_mirrorable("folder", ("cleft", "bright"))
    assert not is_mirrorable("idx", ("0", "1"))
    assert not is_mirrorable("npz", ("liver", "kidney-left"))
    assert not is_mirrorable("folder", ("Right_turn", "stop"))
