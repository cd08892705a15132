"""Which head detects by default, and what weights of another head are worth."""

import dataclasses

import numpy as np
import pytest
import tiny
import torch

import vitrail
from vitrail import catalog
from vitrail.data.annotations.boxes import ObjectFacts, largest_overlaps, measure_objects
from vitrail.data.dataset import Boxes, Split
from vitrail.facts import Choices, Facts
from vitrail.recipe import Choice, DataConfig, InitConfig, InputConfig, Recipe, TrainConfig
from vitrail.tasks import detection
from vitrail.tasks._defaults import dense
from vitrail.validation import update_config

SHAPES = {"path": "shapes", "count_train": 8, "count_val": 4, "count_test": 0, "size": [40, 56]}
DETR = {"queries": 4, "width": 16, "heads": 2, "decoder": 1, "hidden": 16}


def config_of(model):
    return update_config(catalog.find("models", model.name).config, model.keys, model.name)


def chosen(objects, side=40.0, keys=None, size=(256, 256), gpu=False, overlap=None):
    """The keys of the task that the defaults give a ResNet."""
    facts = Facts(20, size, True, 3, (0.5,) * 3, (0.5,) * 3, True, gpu, objects=objects, object_side=side,
                  object_overlap=overlap)  # fmt: skip
    given = Recipe(model=Choice("resnet/18"), input=InputConfig(size=size), task=Choice("detection", keys or {}))
    choices = Choices(given, facts, config_of)
    dense.BoxDefaults().choose_model(choices)
    return choices.recipe.task.keys


def test_few_boxes_are_learned_in_one_stage():
    assert chosen(672) == {"head": "dense", "width": 64, "stride": 8}
    assert chosen(672, gpu=True) == {"head": "dense", "stride": 8}
    assert "head" not in chosen(dense.FEW)


def test_settings_of_a_set_predictor_keep_it():
    assert chosen(672, keys={"queries": 20}) == {"queries": 20}
    assert chosen(672, keys={"head": "detr"}) == {"head": "detr"}


def test_a_setting_of_the_one_stage_head_is_enough():
    assert chosen(dense.FEW, keys={"radius": 2.0}) == {"radius": 2.0, "head": "dense", "width": 64, "stride": 8}
    assert chosen(672, keys={"head": "auto"})["head"] == "dense"
    assert detection.build(detection.Config(classes=2, radius=2.0)).config.head == "dense"
    assert detection.build(detection.Config(classes=2)).config.head == "detr"


@pytest.mark.parametrize(("side", "stride"), [(10, 4), (26, 4), (40, 8), (70, 16), (400, 32)])
def test_the_finest_level_has_four_cells_across_the_median_object(side, stride):
    assert chosen(672, side)["stride"] == stride
    assert chosen(672, side, {"stride": 16})["stride"] == 16


@pytest.mark.parametrize(("overlap", "iou"), [(0.0, 0.3), (0.096, 0.3), (0.21, 0.4), (0.37, 0.6), (0.9, 0.6)])
def test_duplicates_overlap_more_than_objects_do(overlap, iou):
    assert chosen(672, overlap=overlap)["nms_iou"] == iou
    assert chosen(672, overlap=overlap, keys={"nms_iou": 0.7})["nms_iou"] == 0.7


def test_objects_are_measured_without_crowds():
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [0, 0, 10, 10], [0, 0, 100, 100]], np.float32)
    own = Boxes(boxes, np.array([0, 0, 1, 0]), np.array([False, False, False, True]))
    split = Split(["a"], np.zeros(1, np.int64), None, lambda i: own)
    found = measure_objects(split)
    assert (found.total, found.side) == (3, 10)
    assert largest_overlaps(own) == pytest.approx([1 / 3, 1 / 3, 0])
    assert found.overlap == pytest.approx(1 / 3)
    none = own._replace(crowd=np.ones(4, bool))
    assert measure_objects(Split(["a"], np.zeros(1, np.int64), None, lambda i: none)) == ObjectFacts()
    assert measure_objects(Split(["a"], np.zeros(1, np.int64), None)) == ObjectFacts()


def test_of_many_images_some_are_measured():
    read = []

    def annotation(index):
        read.append(index)
        edges = np.array([[0, 0, 8, 8]] * (1 + index % 2), np.float32)
        return Boxes(edges, np.zeros(len(edges), np.int64), np.zeros(len(edges), bool))

    found = measure_objects(Split([""] * 2501, np.zeros(2501, np.int64), None, annotation))
    assert len(read) <= 1001
    assert (found.total, found.side) == (pytest.approx(3751, rel=0.01), 8)


def recipe(keys, **changes):
    made = Recipe(
        model=Choice("resnet/18", {"width": 8, "depths": [1, 1, 1, 1]}), data=DataConfig("", SHAPES),
        task=Choice("detection", keys), train=TrainConfig(steps=1, batch_size=4, precision="fp32"),
        runtime=tiny.RuntimeConfig(workers=0),
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


def test_weights_keep_their_head_unless_another_is_given(tmp_path):
    """A recipe from before there was a choice names no head: it is a set predictor."""
    tiny.finish(tiny.begin(recipe(DETR), tmp_path / "before"))
    start = InitConfig(weights=str(tmp_path / "before"))
    kept = tiny.begin(recipe({}, init=start), tmp_path / "kept")
    assert kept.recipe.task.keys == {"head": "detr", **DETR}
    before = vitrail.load(tmp_path / "before").model.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in kept.state.model.state_dict().items())
    other = tiny.begin(recipe({"head": "dense"}, init=start), tmp_path / "other")
    assert other.recipe.task.keys.keys() == {"head", "width", "stride", "nms_iou"}
    state = other.state.model.state_dict()
    assert all(torch.equal(state[n], before[n]) for n in state if n.startswith("backbone."))
    tiny.finish(other)


def test_masks_keep_the_head_of_their_weights(tmp_path):
    """As boxes do, of any number of classes."""
    keys = {"head": "upernet", "width": 8}
    tiny.finish(tiny.begin(recipe({}, task=Choice("segmentation", keys)), tmp_path / "before"))
    start = InitConfig(weights=str(tmp_path / "before"))
    kept = tiny.begin(recipe({}, task=Choice("segmentation"), init=start), tmp_path / "kept")
    assert kept.recipe.task.keys == keys
    before = vitrail.load(tmp_path / "before").model.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in kept.state.model.state_dict().items())


def test_the_choice_is_kept_with_its_reason(tmp_path):
    running = tiny.begin(recipe({}), tmp_path / "run")
    assert running.recipe.task.keys["head"] == "dense"
    assert "boxes, few for a set predictor" in (tmp_path / "run" / "run.json").read_text()
