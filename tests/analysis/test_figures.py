"""Figures are drawn without a window, of the numbers that they are given."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch
from test_models import images, shaken, small

from vitrail.analysis import figures
from vitrail.analysis.attention import attention
from vitrail.analysis.distance import profile_layers
from vitrail.analysis.gradient_flow import measure_flow
from vitrail.analysis.positions import compute_filters, find_encodings
from vitrail.analysis.rollout import rollout
from vitrail.analysis.tokens import compute_cka, compute_colors, compute_similarity


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def pixels(figure):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(20)
    figure.set_layout_engine("none")  # which is slow
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3]


def drawn(figure, panels):
    """That many panels hold something, and all of it can be rendered."""
    axes = [a for a in figure.axes if a.images or a.lines or a.collections]
    assert len(axes) >= panels
    assert pixels(figure).std() > 0
    return axes


def test_an_overlay_is_brightest_where_the_map_is():
    grey = np.full((32, 48), 128, np.uint8)
    heat = torch.zeros(4, 6)
    heat[1, 4] = 3.0
    found = figures.overlay(grey, heat)
    assert found.shape == (32, 48, 3)
    assert found.dtype == np.uint8
    y, x = np.unravel_index(found.sum(-1).argmax(), (32, 48))
    assert (y // 8, x // 8) == (1, 4)
    flat = figures.overlay(np.zeros((8, 8, 4), np.uint8), torch.ones(2, 2))
    assert len(np.unique(flat.reshape(-1, 3), axis=0)) == 1
    padded = figures.overlay(grey, heat.roll(-2, 1), extent=(32, 96))
    assert np.unravel_index(padded.sum(-1).argmax(), (32, 48))[1] >= 32, (
        "cells are twice as wide, and half of them are padding"
    )


def test_attention_and_heat(image):
    looks = attention(shaken("deit"), images("deit"), heads=[0, 3])
    axes = drawn(figures.draw_attention(image, looks, query=0), 4)
    assert not np.array_equal(axes[0].images[0].get_array(), image)
    drawn(figures.draw_attention(image, looks[:1], query=(2, 3), index=1), 2)
    drawn(figures.draw_attention(image, looks[:1]), 2)
    maps = rollout(shaken("deit"), images("deit"))
    axes = drawn(figures.draw_heat_maps([image, image], maps, ["one", "two"]), 4)
    assert np.array_equal(axes[0].images[0].get_array(), image)
    whole = drawn(figures.draw_weights(looks[0], head=1), 1)[0]
    np.testing.assert_allclose(whole.images[0].get_array(), looks[0].weights[0, 1])


def test_distances_have_a_dot_for_every_head():
    left, right = drawn(figures.draw_distances(profile_layers(shaken("vit"), [images("vit")])), 2)
    for axes in (left, right):
        assert sum(len(c.get_offsets()) for c in axes.collections) == 8


def test_positions_and_filters():
    for model, tiles in (
        (small("vit", size=(16, 24)), 6),
        (small("vit", position="rope", size=(16, 16)), 4),
        (small("swin"), 1),
    ):
        drawn(figures.draw_positions(find_encodings(model)[0]), tiles)
    drawn(figures.draw_filters(compute_filters(small("vit"), 8)), 8)
    drawn(figures.draw_filters(compute_filters(small("vit", channels=5), 3)), 3)


def test_tokens_by_depth(image):
    model, x = shaken("vit"), images("vit", batch=4)
    alike = compute_similarity(model, x)
    (axes,) = drawn(figures.draw_similarity([("one", alike), ("two", alike)]), 1)
    np.testing.assert_allclose(axes.lines[0].get_ydata(), alike.cosine)
    drawn(figures.draw_token_colors(image, compute_colors(model, x)), 3)
    found = compute_cka(model, [x], shaken("resnet"))
    np.testing.assert_allclose(
        drawn(figures.draw_cka(found, ("vit", "resnet")), 1)[0].images[0].get_array(), found.values
    )


def test_flow_has_a_line_for_every_part():
    x = images("swin")
    found = measure_flow(shaken("swin"), lambda m: m(x).summaries[0].square().sum())
    left, middle, right = drawn(figures.draw_gradient_flow(found), 3)
    assert [len(axes.lines) for axes in (left, middle, right)] == [6, 6, 2]
    assert list(left.lines[0].get_ydata()) == [one.out.activation for one in found]


def test_matplotlib_is_imported_when_something_is_drawn():
    for file in Path(figures.__file__).parent.glob("*.py"):
        early = [ast.unparse(n) for n in ast.parse(file.read_text()).body if isinstance(n, ast.Import | ast.ImportFrom)]
        assert not [line for line in early if "matplotlib" in line], file
