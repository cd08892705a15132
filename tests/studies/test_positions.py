"""The study of positions: what other resolutions make of each kind, and the whole of it at a size of seconds."""

import json
import shlex

import numpy as np
import pytest
import torch
from places import must, npz, refused

from vitrail.assembly.model import create_model
from vitrail.layers.position import sincos_2d
from vitrail.studies import positions as p

SMALL = "--steps 2 --seeds 2 --batch 4 --depth 1 --width 16 --patch 4 --data tiny.npz --factors 0.75 1.5"
GRID, NEW = (3, 3), (5, 4)


@pytest.fixture
def place(own_folder):
    npz(own_folder / "tiny.npz")
    return own_folder


def vit(position, **more):
    torch.manual_seed(0)
    keys = {
        "width": 16,
        "heads": 2,
        "depth": 1,
        "patch": 4,
        "size": [12, 12],
        "channels": 1,
        "stem": "patch",
        "position": position,
    }
    model = create_model("vit/nano", 3, {**keys, **more}).eval()
    for module in model.modules():
        if isinstance(module, p.RelativeBias):
            torch.nn.init.normal_(module.table)
        if isinstance(module, p.SelfAttention):
            torch.nn.init.normal_(module.qkv.weight)  # attention is even at first, and places would not be seen
    return model


@pytest.mark.parametrize("position", p.KINDS.values())
def test_at_its_own_size_both_ways_are_the_model_and_it_is_put_back(position):
    model, images = vit(position), torch.randn(2, 1, 12, 12)
    other = torch.randn(2, 1, 20, 16)
    own, there = model(images), model(other)
    for way in p.WAYS:
        assert torch.allclose(p.with_positions(model, way, GRID)(images), own, atol=1e-6)
        assert torch.isfinite(model(other)).all()
    p.with_positions(model, "", GRID)
    assert torch.equal(model(images), own)
    assert torch.equal(model(other), there)
    assert not any(isinstance(m, p.ResizedPosition | p.StretchedRotary | p.ClampedBias) for m in model.modules())


def test_the_two_ways_differ_elsewhere_for_every_kind_but_none():
    other = torch.randn(2, 1, 20, 16)
    for position in p.KINDS.values():
        model = vit(position)
        stretched, kept = (p.with_positions(model, way, GRID)(other) for way in p.WAYS)
        assert torch.allclose(stretched, kept, atol=1e-6) == (position == "none"), position


def test_kept_tables_repeat_their_edge_and_kept_formulas_go_on():
    model = p.with_positions(vit("learned"), "kept", GRID)
    old, new = (
        model.backbone.position.inner.table.unflatten(0, GRID),
        model.backbone.position.encoding(NEW).unflatten(0, NEW),
    )
    assert torch.equal(new[:3, :3], old)
    assert torch.equal(new[4, 3], old[2, 2])
    assert torch.equal(new[1, 3], old[1, 2])
    model = p.with_positions(vit("sincos2d"), "kept", GRID)
    assert torch.allclose(model.backbone.position.encoding(NEW), sincos_2d(NEW, 16))
    assert model.backbone.position.encoding((2, 2)).shape == (4, 16)


def test_a_clamped_bias_is_that_of_the_farthest_displacement():
    bias = p.RelativeBias(GRID, 2)
    torch.nn.init.normal_(bias.table)
    clamped = p.ClampedBias(bias, GRID)
    assert torch.equal(clamped(GRID), bias(GRID))
    large = clamped((1, 6))  # one row of six
    assert torch.equal(large[:, 0, 2], large[:, 0, 5])
    assert not torch.equal(large[:, 0, 1], large[:, 0, 2])
    assert large.shape == (2, 6, 6)


def test_stretched_rotary_positions_span_what_they_spanned():
    """Twice as many places at half the distance: tokens two places apart stand to each other as neighbours did."""
    rotary = p.Rotary(8, 100.0)
    turned = p.StretchedRotary(rotary, (1, 3))
    q, k = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)

    def logits(part, grid):
        n = grid[0] * grid[1]
        return part(q.expand(1, 1, n, 8), grid) @ part(k.expand(1, 1, n, 8), grid).mT

    assert torch.allclose(logits(turned, (1, 6))[0, 0, 0, ::2], logits(rotary, (1, 3))[0, 0, 0], atol=1e-5)
    assert torch.allclose(
        turned(torch.ones(1, 1, 4, 8), (1, 3), 1), rotary(torch.ones(1, 1, 4, 8), (1, 3), 1), atol=1e-6
    )


def test_shuffled_images_have_the_same_patches_and_a_model_without_positions_does_not_mind():
    images = torch.randn(3, 1, 12, 12)
    mixed = p.shuffle_patches(images, 4, 0)
    assert not torch.equal(mixed, images)
    assert torch.equal(mixed.flatten(1).sort().values, images.flatten(1).sort().values)

    def patches(x):
        return {tuple(c.flatten().tolist()) for row in x[0].split(4, 0) for c in row.split(4, 1)}

    assert patches(mixed[0]) == patches(images[0])
    assert torch.allclose(vit("none")(mixed), vit("none")(images), atol=1e-5)
    assert not torch.allclose(vit("sincos2d")(mixed), vit("sincos2d")(images), atol=1e-4)


def test_the_whole_study_in_seconds(place):
    must("study", "positions", *shlex.split(SMALL), "--out", "here")
    rows = json.loads((place / "here/results.json").read_text())["rows"]
    assert [row["name"] for row in rows] == list(p.KINDS)
    for row in rows:
        assert len(row["trainings"]) == 2
        for one in row["trainings"]:
            assert {k: v["size"] for k, v in one["sizes"].items()} == {"0.75": [8, 8], "1.5": [16, 16]}
            assert 0 <= one["own"] <= 1
    blind = rows[0]["trainings"][0]
    assert blind["own"] == blind["shuffled"]
    table = (place / "here/table.md").read_text().splitlines()
    assert table[0].endswith("| 8x8, stretched | 8x8, kept | 16x16, stretched | 16x16, kept |")
    assert "<svg" in (place / "here/figure.svg").read_text()


def test_means_and_spreads():
    assert p.format_spread([0.5, 0.7]) == "60.0 ± 14.1"
    assert p.format_spread([0.5]) == "50.0"
    assert p.format_spread([None]) == "-"


def test_images_of_several_classes_are_refused(own_folder):
    rng = np.random.default_rng(0)
    arrays = {}
    for part in ("train", "test"):
        arrays[f"{part}_images"] = rng.integers(0, 256, (8, 12, 12), np.uint8)
        arrays[f"{part}_labels"] = rng.integers(0, 2, (8, 3))
    np.savez(own_folder / "many.npz", **arrays)
    refused(own_folder, f"study positions {SMALL.replace('tiny', 'many')} --out x", 3, "several classes each")
    refused(own_folder, "study positions --factors 0", 2, "more than 0")
