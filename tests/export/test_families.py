"""Every family and every head as ONNX and as a program of torch: batches 1 and 5, and any size where it is promised,
within 1e-5 of torch."""

import numpy as np
import pytest
import torch
from test_models import SMALL

import vitrail
from vitrail.assembly.model import assemble_model
from vitrail.assembly.save import bundle_of
from vitrail.export.compare import COMPARE
from vitrail.export.contract import TracedGraph
from vitrail.export.exporter import find_format
from vitrail.export.metadata import new_info
from vitrail.inference.graph import InferenceGraph
from vitrail.inference.torch_engine import TorchEngine
from vitrail.recipe import Choice, InputConfig, Recipe

CLOSE = 1e-5
DENOISERS = {"dit", "jit"}
FAMILIES = [family for family in SMALL if family not in DENOISERS]
ANY_SIZE = ["vit", "deit", "clip", "siglip", "pvt_v2", "efficientvit", "mobilevit"]
LARGER = {"mobilevit": (128, 128)}  # where two cells of the coarsest map are more than the small model's image
HEADS = {  # task, its keys, backbone
    "fpn": ("segmentation", {"head": "fpn", "width": 16}, "pvt_v2"),
    "linear": ("segmentation", {"head": "linear"}, "vit"),
    "pup": ("segmentation", {"head": "pup", "width": 16}, "vit"),
    "mask": ("segmentation", {"head": "mask"}, "vit"),
    "upernet": ("segmentation", {"head": "upernet", "width": 16}, "pvt_v2"),
    "anchors": ("detection", {"queries": 6, "width": 32, "decoder": 2, "hidden": 32}, "vit"),
    "slots": ("detection", {"kind": "slots", "queries": 6, "width": 32, "encoder": 1, "decoder": 1}, "pvt_v2"),
    "cells": ("detection", {"head": "dense", "width": 16, "convs": 1, "stride": 4, "candidates": 40}, "pvt_v2"),
    "cells_of_vit": ("detection", {"head": "dense", "width": 16, "convs": 1, "neck": "simple"}, "vit"),
    "multi_label": ("classification", {"multi_label": True}, "vit"),
    "distillation": ("distillation", {}, "deit"),
}


def quick(values, some):
    """Writing one file takes seconds: only some are in `make test`."""
    return [pytest.param(v, marks=() if v in some else pytest.mark.slow) for v in values]


def stirred(bundle):
    """Weights at which every part of the model counts."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in bundle.model.parameters():
            p += 0.05 * torch.randn_like(p)
    return bundle


def classifier(family):
    name, keys = SMALL[family]
    keys = {**keys, "size": LARGER.get(family, keys["size"])}
    return stirred(bundle_of(vitrail.create(name, classes=5, **keys).eval(), None))


def headed(head):
    task, keys, family = HEADS[head]
    name, model = SMALL[family]
    size = model["size"]
    given = InputConfig(size, 3, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), "stretch")
    multi = bool(keys.get("multi_label"))
    keys = {k: v for k, v in keys.items() if k != "multi_label"}
    recipe = Recipe(model=Choice(name, model), input=given, task=Choice(task, keys))
    return stirred(assemble_model(recipe, tuple("abcd"), multi))


def errors(bundle, kind, path, sizes, attention=False):
    """The largest error of an output at each size, batches 1 and 5 in turns."""
    graph = InferenceGraph(bundle, attention=attention)
    chosen = find_format(kind)
    traced = TracedGraph(graph, bundle, graph.any_size, "")
    info = new_info(bundle, graph, kind, chosen.file, "")
    chosen.write(traced, {}, path / chosen.file)
    engine, reference = chosen.open(path / chosen.file, info), TorchEngine(bundle, graph=graph)
    found = []
    for i, (height, width) in enumerate(sizes):
        batch = (1, 5)[i % 2]
        images = np.random.default_rng(i).integers(0, 256, (batch, 3, height, width), np.uint8)
        inside = np.array([[height - 3 * (i % 2), width]] * batch, np.int64)  # the second time with padding
        ours, theirs = engine.run(images, inside), reference.run(images, inside)
        differences = [COMPARE[name](ours, theirs, bundle.task.multi_label) for name in theirs]
        assert not sum(one.beyond for one in differences)
        found.append(max(one.error for one in differences))
    return graph, found


@pytest.mark.parametrize("kind", ["onnx", pytest.param("torch", marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", quick(FAMILIES, []))  # any size has one
def test_every_family(family, kind, tmp_path):
    bundle = classifier(family)
    size = bundle.recipe.input.size
    graph, found = errors(bundle, kind, tmp_path, [size, size])
    assert max(found) <= CLOSE
    assert graph.any_size == (family in ANY_SIZE)


@pytest.mark.parametrize("kind", ["onnx", pytest.param("torch", marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", quick(ANY_SIZE, ["vit"]))
def test_any_size(family, kind, tmp_path):
    """Plain ViTs with their rollout."""
    bundle = classifier(family)
    height, width = bundle.recipe.input.size
    sizes = [(height, width), (height + 5, width + 11), (2 * height, width), (height + 33, 2 * width + 1)]
    graph, found = errors(bundle, kind, tmp_path, sizes, attention=family in ("vit", "deit", "clip", "siglip"))
    assert graph.any_size
    assert max(found) <= CLOSE


def test_a_rollout_over_several_maps_is_bound_to_its_size():
    assert not InferenceGraph(classifier("pvt_v2"), attention=True).any_size


@pytest.mark.slow
@pytest.mark.parametrize(
    "keys",
    [
        {"position": "sincos2d"},
        {"position": "sincos1d"},
        {"position": "factorised"},
        {"position": "rope", "heads": 2},
        {"position": "rope_half", "heads": 2},
        {"position_resampling": "antialias"},
        {"position_join": "concat"},
        {"stem": "conv"},
        {"pool": "mean", "tokens": 0},
        {"registers": 2},
    ],
    ids=str,
)
def test_any_size_of_positions(keys, tmp_path):
    name, small = SMALL["vit"]
    bundle = stirred(bundle_of(vitrail.create(name, classes=5, **{**small, **keys}).eval(), None))
    graph, found = errors(bundle, "onnx", tmp_path, [(64, 64), (69, 75), (128, 64), (97, 129)])
    assert graph.any_size
    assert max(found) <= CLOSE


@pytest.mark.parametrize("keys", [{"window": 4}, {"attention_radius": 2}, {"position": "relative"},
                                  {"position_resampling": "dino"}], ids=str)  # fmt: skip
def test_a_plain_vit_that_is_bound_to_its_size(keys):
    name, small = SMALL["vit"]
    assert not InferenceGraph(bundle_of(vitrail.create(name, classes=5, **{**small, **keys}), None)).any_size


@pytest.mark.parametrize(
    "kind", ["onnx", *(pytest.param(one, marks=pytest.mark.slow) for one in ("torch", "openvino"))]
)
@pytest.mark.parametrize("head", quick(HEADS, ["linear"]))
def test_every_head(head, kind, tmp_path):
    bundle = headed(head)
    size = bundle.recipe.input.size
    _, found = errors(bundle, kind, tmp_path, [size, size])
    assert max(found) <= CLOSE
