"""Runs that learn masks or boxes: any backbone with any head, resumed to the bit, judged at the images' own sizes."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from test_models import SIZES, SMALL, small
from torch import nn

import vitrail
from vitrail import catalog
from vitrail.cli.main import main
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.engine.precision import Precision
from vitrail.engine.train import LoopSettings, MicroBatch, train_steps
from vitrail.errors import UsageError
from vitrail.facts import Choices, Facts
from vitrail.inference.windows import WindowedPredictor
from vitrail.recipe import AugmentConfig, Choice, DataConfig, InitConfig, InputConfig, OptimConfig, Recipe, TrainConfig
from vitrail.tasks import detection, segmentation
from vitrail.tasks._defaults.dense import BoxDefaults
from vitrail.training import feed
from vitrail.training.optimizer import build_state
from vitrail.types import Batch, DetectionTargets
from vitrail.validation import update_config

HEADS = ("linear", "fpn", "pup", "upernet", "mask", "boxes", "cells")
FP32 = Precision("fp32", "cpu")


def task(head, classes=3):
    if head == "boxes":
        return detection.build(detection.Config(classes=classes, queries=4, width=16, heads=2, decoder=2, hidden=16))
    if head == "cells":
        return detection.build(detection.Config(classes=classes, head="dense", width=16, convs=1))
    return segmentation.build(
        segmentation.Config(classes=classes, head=head, width=0 if head in ("linear", "mask") else 16)
    )


def annotations(head, size):
    if head not in ("boxes", "cells"):
        return torch.randint(0, 3, (2, *size))
    boxes = torch.tensor([[[4.0, 4, 30, 40], [20, 10, 50, 50]], [[8, 8, 40, 20], [0, 0, 0, 0]]])
    return DetectionTargets(
        boxes, torch.tensor([[0, 1], [2, -1]]), torch.tensor([list(size)] * 2), torch.tensor([1.5, 1.5])
    )


def begun(family, head):
    torch.manual_seed(0)
    made = task(head)
    return made, *build_state(
        Recipe(train=TrainConfig(steps=2, precision="fp32")), made.assemble(small(family)), made, torch.device("cpu")
    )


def one_of_seven(family, head):
    """All are tried by `make test-all`; `make test` takes a seventh, every family and every head among them."""
    quick = (list(SMALL).index(family) + HEADS.index(head)) % 7 == 0
    return pytest.param(family, head, marks=() if quick else pytest.mark.slow)


@pytest.mark.parametrize(("family", "head"), [one_of_seven(family, head) for family in SMALL for head in HEADS])
def test_any_backbone_with_any_head_steps_and_resumes_to_the_bit(family, head):
    height, width = SIZES.get(family, [(64, 64)])[0]
    size = (height, width + (60 if family == "crossvit" else 32))
    batches = [Batch(torch.randn(2, 3, *size), annotations(head, size)) for _ in range(2)]
    loop = LoopSettings(lambda step: 1e-3, lambda piece, step: batches[step], 1.0, 0, FP32, tiny.ALONE, lambda: False)
    pieces = [[MicroBatch(feed.LoadedBatch(batch.inputs, None, None), 0)] for batch in batches]
    made, whole, _ = begun(family, head)
    reports = list(train_steps(whole, made, pieces, loop))
    assert all(torch.isfinite(sum(r.terms.values())) for r in reports)
    assert float(reports[0].grad_norm) > 0
    made, first, _ = begun(family, head)
    list(train_steps(first, made, pieces[:1], loop))
    made, second, _ = begun(family, head)
    second.load(
        {name: {k: v.clone() for k, v in part.items()} for name, part in first.tensors().items()}, first.numbers()
    )
    list(train_steps(second, made, pieces[1:], loop))
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
    assert any(not torch.equal(a, b) for a, b in zip(whole.model.parameters(), first.model.parameters(), strict=True))


SHAPES = {"path": "shapes", "count_train": 12, "count_val": 5, "count_test": 0, "size": [40, 56]}
SMALL_TASK = {
    "segmentation": {"head": "linear"},
    "detection": {"queries": 4, "width": 16, "heads": 2, "decoder": 1, "hidden": 16},
    "cells": {"width": 16, "convs": 1, "head": "dense"},
}


def recipe(name, **changes):
    keys = {"depth": 2, "width": 16, "heads": 2, "patch": 8, "map_depths": [2]}
    made = Recipe(
        model=Choice("vit/nano", keys),
        data=DataConfig("", SHAPES),
        task=Choice("detection" if name == "cells" else name, SMALL_TASK[name]),
        augment=AugmentConfig(hflip=True, color_jitter=0.2, mosaic=0.3),
        train=TrainConfig(steps=4, batch_size=4, precision="fp32"),
        runtime=tiny.RuntimeConfig(micro_batch=4, workers=0, save_every=2, log_every=1),
    )
    return dataclasses.replace(made, **changes)


@pytest.mark.parametrize("name", SMALL_TASK)
def test_a_run_resumes_to_the_bit_whatever_the_workers(name, tmp_path):
    events = tiny.finish(tiny.begin(recipe(name), tmp_path / "whole"))
    assert events[-1].values["count"] == 5
    assert 0 <= events[-1].values["miou" if name == "segmentation" else "mAP"] <= 1
    running = tiny.begin(
        recipe(name, runtime=tiny.RuntimeConfig(micro_batch=4, workers=2, save_every=2, log_every=1)), tmp_path / "cut"
    )
    from vitrail.training import loop as runs

    stepping = runs.run_training(running)
    for event in stepping:
        if event.kind == "saved":
            break
    stepping.close()
    tiny.finish(tiny.again(tmp_path / "cut"))
    assert tiny.digest(tmp_path / "whole/model.safetensors") == tiny.digest(tmp_path / "cut/model.safetensors")


@pytest.mark.parametrize("name", SMALL_TASK)
def test_pieces_of_a_batch_change_nothing_but_rounding(name, tmp_path):
    plan = TrainConfig(steps=1, batch_size=4, precision="fp32")
    found = []
    for micro in (4, 1):
        machine = tiny.RuntimeConfig(micro_batch=micro, workers=0, save_every=2, log_every=1)
        made = recipe(name, runtime=machine, train=plan)
        keys = {**made.task.keys, **({} if name == "cells" else {"dropout": 0.0})}
        running = tiny.begin(dataclasses.replace(made, task=Choice(made.task.name, keys)), tmp_path / str(micro))
        found.append(next(e.values["grad_norm"] for e in tiny.finish(running) if e.kind == "train"))
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_how_many_objects_are_usual_is_a_matter_of_all_processes():
    objects = DetectionTargets(torch.zeros(2, 2, 4), torch.tensor([[0, 1], [2, -1]]), torch.zeros(2, 2), torch.zeros(2))
    task = detection.build(detection.Config(classes=3))
    assert task.count_targets(objects, 4, lambda count: count + 3).mean_objects.tolist() == [
        1.5,
        1.5,
    ]  # what the other process has
    none = objects._replace(labels=torch.full((2, 2), -1))
    assert task.count_targets(none, 2, lambda count: count).mean_objects.tolist() == [0.5, 0.5]


class Seeing(nn.Module):
    """Says class 1 where a pixel is bright."""

    def __init__(self):
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(1))

    def forward(self, images):
        bright = images.mean(1)
        return torch.stack([-bright, bright], 1)


@pytest.mark.parametrize("resize", ["fit", "slide", "tile", "stretch"])
def test_whole_images_are_looked_at_in_windows_and_put_together(resize):
    random = np.random.default_rng(0)
    pixels = np.kron(random.integers(0, 2, (7, 12), np.uint8) * 255, np.ones((16, 16), np.uint8))[:, :, None].repeat(
        3, axis=2
    )
    pre = Preprocess((48, 64), 3, (0.5,) * 3, (0.5,) * 3, resize)
    said = WindowedPredictor(lambda images, sizes: Seeing()(pre.batch(images)), pre, 2).label_maps(
        [pixels, pixels[:20, :30]]
    )
    assert said[0].shape == pixels.shape[:2]
    assert said[1].shape == (20, 30)
    assert (said[0] == (pixels[:, :, 0] > 127)).mean() > (0.99 if resize == "tile" else 0.85)
    assert len(pre.windows(pixels)) == {"fit": 1, "slide": 2, "tile": 12, "stretch": 1}[resize]


class Finding(nn.Module):
    """Finds the one bright rectangle of a canvas, where there is one."""

    def __init__(self):
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(1))

    def forward(self, images, sizes):
        return images.mean(1) > 0.1  # padding is a little above 0


def boxes_of_bright(bright, sizes):
    rows = []
    for one in bright:
        ys, xs = torch.where(one)
        there = bool(len(xs))
        edges = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] if there else [0, 0, 1, 1]
        rows.append(torch.tensor([[*map(float, edges), 0.9 if there else 0.01, 0.0]]))
    return torch.stack(rows)


@pytest.mark.parametrize("resize", ["fit", "tile", "stretch"])
def test_boxes_of_windows_are_one_where_the_object_is_one(resize):
    pixels = np.zeros((120, 180, 3), np.uint8)
    pixels[40:60, 70:95] = 255
    pre = Preprocess((64, 64), 3, (0.5,) * 3, (0.5,) * 3, resize)
    view = WindowedPredictor(lambda images, sizes: boxes_of_bright(Finding()(pre.batch(images), sizes), sizes), pre, 1)
    found = view.boxes([pixels])[0]
    sure = found[found[:, 4] > 0.5]
    assert len(sure) == 1
    assert np.abs(sure[0, :4] - [70, 40, 95, 60]).max() <= (0 if resize == "tile" else 3)


@pytest.mark.parametrize("name", SMALL_TASK)
def test_what_one_does_with_such_a_run(name, own_folder, capsys):
    tiny.finish(tiny.begin(recipe(name), Path("run")))
    Image.fromarray(np.zeros((50, 70, 3), np.uint8)).save("one.png")
    Path("two.png").write_bytes(b"no image")
    assert main(["report", "run"]) == 0
    page = Path("run/report.html").read_text()
    assert "Images" in page
    assert page.count("data:image/jpeg") >= 10
    assert len(page) < 2e6
    assert main(["eval", "run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["count"] == 5
    assert main(["predict", "run", "one.png", "two.png", "--json", "--score", "0"]) == 3
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert "error" in second
    if name == "segmentation":
        assert sum(first["shares"].values()) == pytest.approx(1)
        assert sum(first["pixels"].values()) == 3500
        with Image.open("predictions/one.png") as written:
            assert written.size == (70, 50)
            assert written.mode == "P"
    else:
        coco = json.loads(Path("predictions/predictions.json").read_text())
        assert [c["name"] for c in coco["categories"]] == ["disc", "square", "triangle"]
        assert len(coco["images"]) == 2
        assert len(coco["annotations"]) == len(first["objects"])
    assert main(["predict", "run", "one.png"]) == 0
    assert Path("predictions-2").is_dir()
    assert main(["predict", "run", "one.png", "--out", "predictions"]) == 2
    said = vitrail.load("run").predict_scenes("one.png")[0]
    assert said.shape == ((50, 70) if name == "segmentation" else (said.shape[0], 6))
    with pytest.raises(UsageError, match="not the class of an image"):
        vitrail.load("run").predict("one.png")


def test_a_plain_vit_gives_maps_of_several_depths_and_a_task_fits_the_data(tmp_path):
    made = recipe("segmentation", model=Choice("vit/nano", {"depth": 4, "width": 16, "heads": 2}), task=Choice())
    running = tiny.begin(made, tmp_path / "run")
    assert running.recipe.task.name == "segmentation"
    assert running.recipe.model.keys["map_depths"] == [1, 2, 3, 4]
    assert running.recipe.input.size == (64, 64)
    assert running.recipe.input.resize_mode == "fit"


def test_a_plain_vit_detects_the_way_of_vitdet(tmp_path):
    """A pyramid of its last map; windows where the image has more patches than one. What is given stays."""
    keys = {"depth": 4, "width": 16, "heads": 2, "patch": 4}
    made = recipe("detection", model=Choice("vit/nano", keys))
    running = tiny.begin(made, tmp_path / "run")
    assert running.recipe.task.keys["neck"] == "simple"
    assert running.recipe.task.keys["stride"] == 2
    assert running.recipe.model.keys["window"] == 14
    assert "map_depths" not in running.recipe.model.keys
    assert [b.windows is None for b in running.state.model.backbone.blocks] == [False, False, False, True]
    tiny.finish(running)
    assert vitrail.load(tmp_path / "run").predict_scenes(np.zeros((70, 50, 3), np.uint8))[0].shape[1] == 6
    given = tiny.begin(recipe("detection", model=Choice("vit/nano", {**keys, "map_depths": [2, 4]})), tmp_path / "b")
    assert "neck" not in given.recipe.task.keys


def config_of(model):
    return update_config(catalog.find("models", model.name).config, model.keys, model.name)


@pytest.mark.parametrize(
    "name", ["beit/base", "clip/base", "dinov3/small", "eva/02_tiny", "samvit/base", "siglip/base"]
)
def test_every_backbone_of_one_stride_detects_the_way_of_vitdet(name):
    keys = {"depth": 2, "width": 32, "heads": 2, "patch": 8, "size": [32, 32]}
    given = Recipe(model=Choice(name, keys), input=InputConfig(size=(64, 64)), task=Choice("detection"))
    choices = Choices(given, Facts(20, (64, 64), True, 3, (0.5,) * 3, (0.5,) * 3, True, False), config_of)
    BoxDefaults().choose_maps(choices)
    assert choices.recipe.task.keys == {"neck": "simple", "stride": 4}
    assert "map_depths" not in choices.recipe.model.keys
    assert "window" not in choices.recipe.model.keys
    sizes = {"width": 16, "heads": 2, "hidden": 24, "decoder": 1}
    task = detection.build(detection.Config(classes=2, **sizes, **choices.recipe.task.keys))
    module = catalog.load_module("models", name.partition("/")[0])
    model = task.assemble(module.build(choices.model_config))
    assert model(torch.randn(1, 3, 64, 64)).boxes.isfinite().all()


@pytest.mark.parametrize("name", ["resnet/18", "swin/tiny", "crossvit/tiny", "dit/small_2"])
def test_other_models_get_no_pyramid(name):
    given = Recipe(model=Choice(name), input=InputConfig(size=(64, 64)), task=Choice("detection"))
    choices = Choices(given, Facts(20, (64, 64), True, 3, (0.5,) * 3, (0.5,) * 3, True, False), config_of)
    BoxDefaults().choose_maps(choices)
    assert "neck" not in choices.recipe.task.keys


def test_a_run_begins_with_the_weights_of_a_classifier(tmp_path):
    path = tiny.images(tmp_path / "photos", size=72)
    keys = {"depth": 4, "width": 16, "heads": 2, "patch": 8}
    plan = TrainConfig(steps=1, batch_size=4, precision="fp32")
    tiny.finish(
        tiny.begin(
            Recipe(model=Choice("vit/nano", keys), data=DataConfig("", {"path": str(path)}), train=plan),
            tmp_path / "before",
        )
    )
    made = recipe(
        "segmentation",
        model=Choice(),
        init=InitConfig(weights=str(tmp_path / "before")),
        optim=OptimConfig(freeze="backbone"),
    )
    running = tiny.begin(made, tmp_path / "after")
    assert running.recipe.input.resize_mode != "crop" and running.recipe.model.keys["map_depths"] == [1, 2, 3, 4]  # noqa: PT018
    before = vitrail.load(tmp_path / "before").model.backbone.state_dict()
    tiny.finish(running)
    after = vitrail.load(tmp_path / "after").model.backbone.state_dict()
    assert all(torch.equal(before[name], value) for name, value in after.items())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"task": Choice("classification")}, "classification learns from classes, and this data has masks"),
        ({"augment": AugmentConfig(mixup=0.2)}, "augment.mixup would change an image and not its masks"),
        ({"data": DataConfig("", SHAPES, sampler="balanced")}, "data.sampler balanced"),
        ({"input": InputConfig(resize_mode="crop")}, "input.resize_mode crop"),
    ],
)
def test_what_cannot_be_done_with_masks_is_refused(changes, told, tmp_path):
    with pytest.raises(UsageError, match=told):
        tiny.begin(recipe("segmentation", **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_process_without_images_waits_for_the_others():
    from vitrail.inference.windows import read_ahead

    assert list(read_ahead(lambda i: i, [])) == []
    assert list(read_ahead(lambda i: 2 * i, [1, 2, 3])) == [2, 4, 6]


def test_judged_on_data_of_another_kind(own_folder, capsys):
    tiny.finish(tiny.begin(recipe("detection"), Path("run")))
    assert main(["eval", "run", "--data", "mini"]) == 3
    assert "the model predicts boxes, and this data has classes" in " ".join(capsys.readouterr().err.split())


def test_a_mask_of_another_size_is_told_before_the_first_step(own_folder, capsys):
    for part, mode in (("images", "RGB"), ("masks", "L")):
        Path("set", part).mkdir(parents=True)
        for i in range(8):
            Image.new(mode, (40, 32) if i != 3 or part == "images" else (20, 20), i % 2).save(f"set/{part}/{i}.png")
    words = ["train", "--data", "set", "--model", "vit/nano", "--model.depth", "1", "--model.map-depths", "1",
             "--task.head", "linear",
             "--steps", "1", "--batch-size", "2", "--out", "run"]  # fmt: skip
    assert main([*words, "--data.on-error", "fail"]) == 3
    assert "3.png" in capsys.readouterr().err
    assert not Path("run").exists()
    assert main(words) == 0
    assert "not readable: 1 image" in capsys.readouterr().out
