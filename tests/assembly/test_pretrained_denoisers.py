"""Denoisers that begin with the weights of others: with the same classes, with others, and what is told."""

import dataclasses

import numpy as np
import pytest
import tiny
import torch

from vitrail.assembly import pretrained
from vitrail.assembly.pretrained import WeightsOrigin
from vitrail.errors import CheckpointError, UsageError
from vitrail.inference import predictor
from vitrail.recipe import Choice, DataConfig, InitConfig, OptimConfig, Recipe, RuntimeConfig, TrainConfig
from vitrail.training.lr_range_test import LrRange, range_test, step_losses
from vitrail.weights.read import RawWeights

SMALL = {
    "dit": Choice("dit/nano", {"width": 16, "depth": 2, "heads": 2}),
    "jit": Choice("jit/nano", {"width": 16, "depth": 2, "heads": 2, "context": 2, "context_start": 1, "bottleneck": 8}),
}


def recipe(path, model=None, **changes):
    made = Recipe(
        model=model or Choice(),
        data=DataConfig("", {"path": str(path)}),
        optim=OptimConfig(lr=3e-3, ema_decay=0.5, ema_decay_2=0.2, warmup_steps=0),
        train=TrainConfig(steps=2, batch_size=16, precision="fp32", eval_every=0),
        runtime=RuntimeConfig(micro_batch=16, workers=0, log_every=1),
    )
    return dataclasses.replace(made, **changes)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.npz(tmp_path_factory.mktemp("data"), train=32, val=6)


@pytest.fixture(scope="module", params=SMALL)
def trained(request, data, tmp_path_factory):
    out = tmp_path_factory.mktemp(request.param) / "run"
    said = {"prediction": "v", "noise_scale": 0.5} if request.param == "jit" else {"steps": 100}
    tiny.finish(tiny.begin(recipe(data, SMALL[request.param], task=Choice("diffusion", said)), out))
    return out


def test_the_same_classes_go_on_with_every_number_and_with_the_objective(trained, data, tmp_path):
    running = tiny.begin(recipe(data, init=InitConfig(weights=str(trained))), tmp_path / "run")
    theirs, source = predictor.load_predictor(trained).model.state_dict(), predictor.load_predictor(trained).recipe
    assert all(torch.equal(t, theirs[name]) for name, t in running.state.model.state_dict().items())
    assert running.recipe.task == source.task
    assert running.recipe.model == source.model
    assert not [note for note in running.load_report.notes if "classes" in note]
    tiny.finish(running)
    assert predictor.load_predictor(tmp_path / "run").sample(count=1, steps=2).shape == (3, 12, 12, 1)


def test_other_classes_keep_those_known_by_name_and_begin_the_others_as_none(trained, tmp_path):
    folder = tiny.images(tmp_path / "photos")
    (folder / "ant").rename(folder / "1")
    given = dataclasses.replace(recipe(folder, init=InitConfig(weights=str(trained))).input, channels=1, size=(12, 12))
    running = tiny.begin(recipe(folder, input=given, init=InitConfig(weights=str(trained))), tmp_path / "run")
    assert running.dataset.classes == ("1", "bee")
    theirs, ours = (
        m.state_dict()["label.weight"] for m in (predictor.load_predictor(trained).model, running.state.model)
    )
    assert torch.equal(ours, theirs[[1, 3, 3]])
    assert "1 of 2 classes are known by name; the others start from that of no class" in running.load_report.notes
    tiny.finish(running)


@pytest.mark.parametrize("head", ["new", "auto", "keep"])
def test_heads_are_tables_of_classes(head, trained, data, tmp_path):
    running = tiny.begin(recipe(data, init=InitConfig(weights=str(trained), head=head)), tmp_path / head)
    theirs, ours = (
        m.state_dict()["label.weight"] for m in (predictor.load_predictor(trained).model, running.state.model)
    )
    assert torch.equal(ours, theirs[[3, 3, 3, 3]] if head == "new" else theirs)


def test_without_classes_what_is_said_of_none_is_kept(trained, data, tmp_path):
    name = predictor.load_predictor(trained).recipe.model.name
    running = tiny.begin(
        recipe(data, Choice(name, {"classes": 0}), init=InitConfig(weights=str(trained))), tmp_path / "run"
    )
    theirs, ours = (
        m.state_dict()["label.weight"] for m in (predictor.load_predictor(trained).model, running.state.model)
    )
    assert torch.equal(ours, theirs[3:])
    tiny.finish(running)
    again = tiny.begin(recipe(data, init=InitConfig(weights=str(tmp_path / "run"))), tmp_path / "again")
    assert again.state.model.null == 0, "a model without classes stays one where nothing else is said"


def test_what_does_not_fit_is_told(trained, data, tmp_path):
    folder = tiny.images(tmp_path / "photos")
    with pytest.raises(CheckpointError, match="for 3 other classes"):
        tiny.begin(recipe(folder, init=InitConfig(weights=str(trained), head="keep")), tmp_path / "never")
    name = predictor.load_predictor(trained).recipe.model.name
    with pytest.raises(CheckpointError, match="do not fit"):
        tiny.begin(recipe(data, Choice(name, {"width": 32}), init=InitConfig(weights=str(trained))), tmp_path / "never")
    with pytest.raises(UsageError, match="is a generative model, so it cannot be trained"):
        tiny.begin(
            recipe(data, task=Choice("classification"), init=InitConfig(weights=str(trained))), tmp_path / "never"
        )
    assert not (tmp_path / "never").exists()


def test_a_file_without_names_of_classes_keeps_them_by_their_number(trained):
    bundle = dataclasses.replace(predictor.load_predictor(trained).bundle, classes=("a", "b", "c"))
    made = bundle.model
    raw = RawWeights({name: t.clone() for name, t in made.state_dict().items()}, {}, "", ())
    theirs = raw.tensors["label.weight"].clone()
    pretrained.load_origin(bundle, WeightsOrigin(trained, raw, "vitrail"), InitConfig())
    assert torch.equal(made.label.weight, theirs)
    raw.tensors["label.weight"] = torch.randn(8, 16)
    pretrained.load_origin(bundle, WeightsOrigin(trained, raw, "vitrail"), InitConfig())
    assert torch.equal(made.label.weight, raw.tensors["label.weight"][[7, 7, 7, 7]])


def test_rates_are_tried_with_the_recipe_of_a_run(trained):
    """Which has two averages, and a test has none."""
    source = predictor.load_predictor(trained).recipe
    tested, prepared = range_test(source, LrRange(1e-4, 1.0, 24), tiny.ALONE)
    assert len(tested.points) >= 10
    assert (prepared.recipe.optim.ema_decay, prepared.recipe.optim.ema_decay_2) == (0.0, 0.0)


@pytest.mark.parametrize("family", SMALL)
def test_in_a_test_of_rates_the_loss_moves_by_the_rate_and_not_by_the_noise(family, tmp_path):
    arrays = {f"{part}_{what}": array for part in ("train", "val")
              for what, array in (("images", np.full((16, 12, 12, 1), 80, np.uint8)),
                                  ("labels", np.zeros(16, np.int64)))}  # fmt: skip
    np.savez(tmp_path / "same.npz", **arrays)
    made = recipe(tmp_path / "same.npz", SMALL[family])
    running = tiny.begin(made, tmp_path / "run")
    losses = list(step_losses(running, LrRange(1e-12, 1e-11, 10)))
    assert len(losses) == 2
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
