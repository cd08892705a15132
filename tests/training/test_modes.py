"""Training mode and evaluation mode: what is kept of a finished run is what the trained model gives, and norms that
cannot learn are told before a step."""

import dataclasses

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from torch import nn

from vitrail.cli.main import main
from vitrail.engine.evaluate import predict
from vitrail.engine.precision import Precision
from vitrail.errors import UsageError
from vitrail.recipe import Choice, DataConfig, InputConfig, OptimConfig, Recipe, RuntimeConfig, TrainConfig


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    """Ten noisy images with three stripes each, of which one is moved."""
    folder, random = tmp_path_factory.mktemp("masks"), np.random.default_rng(0)
    for kind in ("images", "masks"):
        (folder / kind).mkdir()
    for i in range(10):
        Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / "images" / f"{i}.png")
        stripes = np.roll(np.repeat(np.array([0, 1, 2], np.uint8), 11)[:32, None].repeat(32, 1), i, 0)
        Image.fromarray(stripes).save(folder / "masks" / f"{i}.png")
    return folder


def recipe(path, size=32, batch=4, **runtime):
    return Recipe(
        model=Choice("resnet/18", {"width": 8}),
        data=DataConfig("", {"path": str(path)}),
        input=InputConfig(size=(size, size)),
        optim=OptimConfig(lr=1e-2),
        train=TrainConfig(steps=3, batch_size=batch, precision="bf16", eval_every=0),
        runtime=RuntimeConfig(workers=0, **runtime),
    )


def test_maps_of_a_finished_run_are_those_of_the_trained_model(masks, tmp_path, capsys):
    """Of 32 pixels the last map is 1x1: in training mode one image at a time would be an error besides. Trained in
    bf16, evaluated as `vitrail eval` does."""
    run = tmp_path / "run"
    events = tiny.finish(tiny.begin(recipe(masks), run))
    assert events[-1].kind == "done"
    kept = {p.name: np.asarray(Image.open(p)) for p in (run / "evaluation" / "val").glob("*.png")}
    numbers = (run / "evaluation" / "val.json").read_text()
    assert main(["eval", str(run), "--device", "cpu"]) == 0
    capsys.readouterr()
    assert len(kept) >= 2
    for name, pixels in kept.items():
        assert np.array_equal(pixels, np.asarray(Image.open(run / "evaluation" / "val" / name)))
    assert (run / "evaluation" / "val.json").read_text() == numbers


def test_an_evaluation_gives_every_module_its_own_mode_back():
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.LazyLinear(2))
    net(torch.zeros(2, 3, 2, 2))
    net.train()
    net[0].eval()  # frozen
    list(predict(net, lambda *_: torch.zeros(1), [], lambda x: x, Precision("fp32", "cpu")))
    assert [m.training for m in net] == [False, True, True]


def test_batch_norm_with_one_value_a_channel_is_told_before_the_first_step(masks, tmp_path):
    data = tiny.images(tmp_path / "classes", each=4)
    with pytest.raises(UsageError, match=r"one value a channel.*1x1 of an image of 16x16") as told:
        tiny.begin(recipe(data, 16, batch=1), tmp_path / "run")
    assert "--batch-size 2" in told.value.fix
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="one value a channel"):  # the last micro-batch of a step has one image
        tiny.begin(recipe(data, 16, batch=3, micro_batch=2), tmp_path / "run")
    made = recipe(data, 16, batch=2)  # the remedy; in fp32, see docs/log.md on bf16 convolutions of maps of 1x1
    train = dataclasses.replace(made.train, steps=1, precision="fp32")
    tiny.finish(tiny.begin(dataclasses.replace(made, train=train), tmp_path / "run"))


def test_what_is_tried_on_an_empty_image_leaves_the_statistics(tmp_path):
    session = tiny.begin(recipe(tiny.images(tmp_path / "classes", each=4), 64, batch=1), tmp_path / "run")
    norms = [m for m in session.state.model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert all(int(m.num_batches_tracked) == 0 and not m.running_mean.any() for m in norms)
