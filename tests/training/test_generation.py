"""Runs that learn to make images: they fall, resume to the bit, and what cannot be is told."""

import dataclasses
import math

import pytest
import tiny
import torch

from vitrail.assembly.prepare import prepare_run
from vitrail.contracts import Predictions
from vitrail.errors import UsageError
from vitrail.inference import predictor
from vitrail.recipe import (
    AugmentConfig,
    Choice,
    DataConfig,
    InputConfig,
    OptimConfig,
    Recipe,
    RuntimeConfig,
    TrainConfig,
)
from vitrail.report.page.run_page import build_report
from vitrail.storage.tensors import unpack
from vitrail.training import loop as runs

SMALL = {
    "dit": Choice("dit/nano", {"width": 16, "depth": 2, "heads": 2}),
    "jit": Choice(
        "jit/nano",
        {"width": 16, "depth": 2, "heads": 2, "context": 2, "context_start": 1, "bottleneck": 8, "dropout": 0.1},
    ),
}


def recipe(family, path, **changes):
    made = Recipe(
        model=SMALL[family],
        data=DataConfig("", {"path": str(path)}),
        optim=OptimConfig(lr=3e-3, ema_decay=0.9, ema_decay_2=0.2, warmup_steps=0),
        train=TrainConfig(steps=8, batch_size=16, precision="fp32", eval_every=4),
        runtime=RuntimeConfig(micro_batch=16, workers=0, save_every=4, log_every=1),
    )
    return dataclasses.replace(made, **changes)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.npz(tmp_path_factory.mktemp("data"), train=32, val=6)


@pytest.mark.parametrize("family", SMALL)
def test_the_loss_falls_and_a_run_resumes_to_the_bit_with_both_averages(family, data, tmp_path):
    events = tiny.finish(tiny.begin(recipe(family, data), tmp_path / "whole"))
    judged = [e.values["held_out_loss"] for e in events if e.kind == "eval"]
    assert len(judged) == 2
    assert judged[1] < judged[0]
    assert all(math.isfinite(e.values["loss"]) for e in events if e.kind == "train")
    running = tiny.begin(recipe(family, data), tmp_path / "cut")
    stepping = runs.run_training(running)
    next(e for e in stepping if e.kind == "saved")
    stepping.close()
    assert tiny.steps(tmp_path / "cut") == ["step-00000004"]
    tiny.finish(tiny.again(tmp_path / "cut"))
    parts = [unpack(tmp_path / "whole" / file)[0] for file in ("model.safetensors", "ema2.safetensors")]
    for file in ("model.safetensors", "ema2.safetensors"):
        assert tiny.digest(tmp_path / "whole" / file) == tiny.digest(tmp_path / "cut" / file)
    assert any(not torch.equal(a, parts[1][name]) for name, a in parts[0].items())
    first, second = (predictor.load_predictor(tmp_path / "cut", average=number).model.state_dict() for number in (1, 2))
    assert all(torch.equal(a, parts[0][name]) for name, a in first.items())
    assert all(torch.equal(a, parts[1][name]) for name, a in second.items())


@pytest.mark.parametrize("machine", [{"grad_checkpoint": True}, {"micro_batch": 8, "workers": 1}])
def test_what_may_change_changes_nothing_or_runs(machine, data, tmp_path):
    made = recipe("jit", data, train=TrainConfig(steps=2, batch_size=16, precision="fp32", eval_every=0))
    plain = tiny.finish(tiny.begin(made, tmp_path / "plain"))[-1].values["held_out_loss"]
    other = dataclasses.replace(made, runtime=dataclasses.replace(made.runtime, **machine))
    found = tiny.finish(tiny.begin(other, tmp_path / "other"))[-1].values["held_out_loss"]
    assert found == pytest.approx(plain, rel=1e-6 if "grad_checkpoint" in machine else 0.05)


@pytest.mark.parametrize("family", SMALL)
def test_compiled_blocks_learn_the_same(family, data, tmp_path, monkeypatch):
    """Traced by torch.compile; what a compiler would make of it takes minutes, so the trace is run as it is."""
    torch._dynamo.reset()  # the checks at the doors are one piece of code, whose traces count together in a process
    compiled = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled(self, backend="eager", fullgraph=True))
    made = recipe(family, data, train=TrainConfig(steps=2, batch_size=16, precision="fp32", eval_every=0))
    plain = tiny.finish(tiny.begin(made, tmp_path / "plain"))[-1].values["held_out_loss"]
    other = dataclasses.replace(made, train=dataclasses.replace(made.train, compile=True))
    found = tiny.finish(tiny.begin(other, tmp_path / "other"))[-1].values["held_out_loss"]
    assert found == pytest.approx(plain, rel=1e-5)
    assert predictor.load_predictor(tmp_path / "other").sample(count=1, steps=2).shape == (3, 12, 12, 1)


SHAPES = {"wide": (8, 20, 3), "four channels": (12, 12, 4), "two channels": (9, 12, 2)}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("family", SMALL)
def test_images_of_any_shape_with_and_without_classes(family, shape, tmp_path):
    import numpy as np

    random, arrays = np.random.default_rng(0), {}
    for part, count in (("train", 16), ("val", 6)):
        arrays[f"{part}_images"] = random.integers(0, 256, (count, *SHAPES[shape]), np.uint8)
        arrays[f"{part}_labels"] = np.arange(count) % 3
    np.savez(tmp_path / "data.npz", **arrays)
    classes = {"classes": 0} if shape == "wide" else {}
    model = Choice(SMALL[family].name, {**SMALL[family].keys, **classes})
    made = recipe(
        family,
        tmp_path / "data.npz",
        model=model,
        train=TrainConfig(steps=2, batch_size=8, precision="fp32", eval_every=0),
    )
    tiny.finish(tiny.begin(made, tmp_path / "run"))
    again = predictor.load_predictor(tmp_path / "run")
    assert again.sample(count=1, steps=2).shape == (1 if classes else 3, *SHAPES[shape])
    page = build_report(tmp_path / "run").read_text()
    assert "Memorisation" in page
    assert ("of each class" in page) == (not classes)


def test_images_of_several_classes_are_refused(tmp_path):
    path = tiny.npz(tmp_path / "data", multi=True)
    for keys in ({}, {"classes": 0}):
        with pytest.raises(UsageError, match="diffusion is conditioned on one class an image"):
            tiny.begin(recipe("jit", path, model=Choice("jit/nano", {**SMALL["jit"].keys, **keys})), tmp_path / "never")
    assert not (tmp_path / "never").exists()


def filled(made):
    return prepare_run(made, tiny.ALONE)


def test_choices_are_those_of_the_family(data):
    for family, objective, betas in (("dit", "gaussian", (0.9, 0.999)), ("jit", "flow", (0.9, 0.95))):
        prepared = filled(recipe(family, data, optim=OptimConfig(), train=TrainConfig(steps=5000)))
        r = prepared.recipe
        assert (r.task.name, r.task.keys["objective"], r.model.keys["classes"]) == ("diffusion", objective, 3)
        assert (r.optim.schedule, r.optim.weight_decay, r.optim.betas) == ("constant", 0.0, betas)
        assert (r.optim.ema_decay, r.optim.ema_decay_2) == (0.9999, 0.99)
        assert (r.input.mean, r.input.std) == ((0.5,), (0.5,))
        assert f"task = diffusion: {r.model.name} is a generative model" in prepared.reasons
    said = filled(
        recipe("jit", data, optim=OptimConfig(schedule="cosine", weight_decay=0.1, ema_decay=0.0))
    ).recipe.optim
    assert (said.schedule, said.weight_decay, said.ema_decay, said.ema_decay_2) == ("cosine", 0.1, 0.0, 0.0)
    unnamed = filled(recipe("jit", data, model=Choice(), task=Choice("diffusion"))).recipe
    assert (unnamed.model.name, unnamed.task.keys["objective"]) == ("jit/nano", "flow")
    classifier = filled(recipe("jit", data, model=Choice("vit/nano"), optim=OptimConfig())).recipe.optim
    assert (classifier.schedule, classifier.weight_decay, classifier.betas, classifier.ema_decay) == (
        "cosine",
        0.05,
        (0.9, 0.999),
        0.0,
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"augment": AugmentConfig(mixup=0.3)}, "augment.mixup changes images"),
        ({"augment": AugmentConfig(random_erasing=0.3)}, "augment.random_erasing changes images"),
        ({"augment": AugmentConfig(crop="pad")}, "augment.crop pad changes images"),
        ({"input": InputConfig(resize_mode="fit")}, "input.resize_mode fit changes images"),
        ({"input": InputConfig(mean=(0.3,))}, "generated images are in"),
        ({"train": TrainConfig(start_size=(8, 8))}, "train.start_size is not for"),
        (
            {"task": Choice("classification")},
            "jit/nano is a generative model, so it cannot be trained for classification",
        ),
        ({"task": Choice("diffusion"), "model": Choice("vit/nano")}, "vit/nano is not a generative model"),
        ({"optim": OptimConfig(ema_decay=0.0, ema_decay_2=0.5)}, "there is no first"),
        ({"model": Choice("jit/nano", {"classes": 5})}, "has 5 classes, the data has 3"),
    ],
)
def test_what_cannot_be_is_told(changes, said, data, tmp_path):
    with pytest.raises(UsageError, match=said):
        tiny.begin(recipe("jit", data, **changes), tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_what_is_held_out_depends_on_the_image_alone(data, tmp_path):
    running = tiny.begin(
        recipe("jit", data, model=Choice("jit/nano", {**SMALL["jit"].keys, "classes": 0})), tmp_path / "run"
    )
    task, net = running.bundle.task, running.state.model.eval()
    for p in net.parameters():
        p.data += 0.1
    images, labels = torch.rand(4, 1, 12, 12) * 2 - 1, torch.tensor([0, 1, 2, 0])
    ids = torch.tensor([5, 6, 7, 8]).numpy()
    with torch.no_grad():
        together = task.held_out_loss(net, images, labels, ids)
        alone = task.held_out_loss(net, images[2:3], labels[2:3], ids[2:3])
        moved = task.held_out_loss(net, images[2:3], labels[2:3], ids[3:])
    torch.testing.assert_close(alone, together[2:3])
    assert abs(float(moved - alone)) > 1e-4
    metrics = task.evaluator().metrics(Predictions(together, labels))
    assert metrics["held_out_loss"] == pytest.approx(float(together.mean()), rel=1e-6)
    assert metrics["per_class"]["held_out_loss"][2] == pytest.approx(float(together[2]), rel=1e-6)
    assert net.null == 0, "without classes"


def test_patience_prefers_less(data, tmp_path):
    made = recipe(
        "jit",
        data,
        train=TrainConfig(steps=6, batch_size=16, precision="fp32", eval_every=1, patience=2),
        optim=OptimConfig(lr=0.0, ema_decay=0.5),
    )
    events = tiny.finish(tiny.begin(made, tmp_path / "run"))
    (stopped,) = [e for e in events if e.kind == "stopped"]
    assert stopped.step == 3
    assert stopped.values["best"] > 0
    assert f"held_out_loss {stopped.values['best']:.4f} at step 1" in stopped.values["text"]
