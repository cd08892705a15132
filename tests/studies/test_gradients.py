"""The study of gradients: what softmax and networks must do by theory, and the whole of it at a size of seconds."""

import json
import math
import shlex

import pytest
import torch
from places import everything, must, npz, refused
from torch import nn

from vitrail.assembly.model import create_model
from vitrail.studies import gradients as g
from vitrail.studies._bench.bench import Job

SMALL = (
    "--depths 1 3 --scales 0.5 1 --width 16 --patch 6 --batch 4 --steps 2 --head-widths 8 --tokens 9 --data tiny.npz"
)
SHAPE = {"width": 16, "heads": 2, "patch": 4, "size": [12, 12], "channels": 1, "stem": "patch"}


@pytest.fixture
def place(own_folder):
    npz(own_folder / "tiny.npz")
    return own_folder


def test_uniform_attention_has_the_entropy_of_all_keys():
    found = g.sharpness(torch.zeros(3, 50, dtype=torch.float64), 50)
    assert found == pytest.approx({"largest": 1 / 50, "entropy": 1.0, "slope": 1 - 1 / 50})


def test_attention_to_one_key_has_no_entropy_and_lets_no_gradient_through():
    found = g.sharpness(1000 * torch.eye(5, dtype=torch.float64), 5)
    assert found == pytest.approx({"largest": 1.0, "entropy": 0.0, "slope": 0.0})


def test_the_slope_is_the_trace_of_the_derivative_of_softmax():
    x = torch.randn(7, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda y: y.softmax(-1), x)
    assert g.sharpness(x[None], 7)["slope"] == pytest.approx(float(jacobian.trace()))


@pytest.mark.parametrize("width", [16, 64, 256])
def test_division_by_the_root_of_the_width_keeps_logits_at_the_square_of_the_scale(width):
    """Entries of standard deviation s: logits of s^2 sqrt(d), and of s^2 with the division; log N - entropy is then
    about s^4 / 2."""
    plain, divided = (g.logits(width, 400, 0.5, way, 0)[0] for way in g.WAYS[:2])
    assert float(plain.std()) == pytest.approx(0.25 * width**0.5, rel=0.05)
    assert float(divided.std()) == pytest.approx(0.25, rel=0.05)
    entropy = g.sharpness(divided, 400)["entropy"] * math.log(400)
    assert math.log(400) - entropy == pytest.approx(0.25**2 / 2, rel=0.1)


def test_normalised_queries_and_keys_do_not_know_their_scale():
    small, large = (g.sharpness(*g.logits(32, 50, scale, "normalised", 1)) for scale in (0.25, 4.0))
    assert small == pytest.approx(large, rel=1e-3)
    small, large = (g.sharpness(*g.logits(32, 50, scale, "q k / sqrt(d)", 1)) for scale in (0.25, 4.0))
    assert large["largest"] > 0.8 > 0.1 > small["largest"]


def test_rescaled_matrices_have_the_spread_that_was_asked_for():
    model = create_model("vit/nano", 3, {**SHAPE, "width": 64, "depth": 2})
    head = model.heads[0].weight.clone()
    g.rescale(model, 2.0)
    for block in model.backbone.blocks:
        for module in block.modules():
            if isinstance(module, nn.Linear):
                assert float(module.weight.detach().std()) == pytest.approx(2 / module.in_features**0.5, rel=0.1)
    assert torch.equal(model.heads[0].weight, head)


def test_likeness_of_tokens_is_their_mean_cosine():
    model = create_model("vit/nano", 3, {**SHAPE, "depth": 1, "tokens": 0})
    images = torch.randn(2, 1, 12, 12)
    seen = []
    model.backbone.blocks[0].register_forward_hook(lambda m, a, out: seen.append(out))
    found = g.token_similarity(model, images)
    x = torch.nn.functional.normalize(seen[0].double(), dim=-1)
    cosines = x @ x.mT
    off = ~torch.eye(9, dtype=torch.bool)
    assert found == pytest.approx(float(cosines[:, off].mean()))


def test_fates():
    def of(first, last, lost=""):
        return g.fate({"lost": lost, "activations": [1.0, 1.0], "gradients": [first, last]})

    assert [of(1.0, 1.0), of(1e4, 1.0), of(1.0, 1e4), of(0.0, 1.0), of(None, 1.0), of(1.0, 0.0)] == [
        "arrives", "explodes", "vanishes", "vanishes", "not finite", "explodes",
    ]  # fmt: skip
    assert of(1.0, 1.0, "loss is not finite") == "not finite"


def test_a_deep_network_without_residual_connections_loses_its_gradient(place):
    """Scale 1/2, no norm, no residual: every block shrinks what passes by a factor, forward and back."""
    config = g.Config(depths=(1, 3), scales=(0.5, 1.0), head_widths=(8,))
    must("study", "gradients", *shlex.split(SMALL), "--out", "here")
    rows = {row["name"]: row["found"][0] for row in json.loads((place / "here/results.json").read_text())["rows"]}
    assert list(rows) == [row.name for row in g.build(config)]
    lone = rows["none, no residual, 3 blocks, scale 0.5"]
    assert lone["activations"][2] < 0.1 * lone["activations"][0]
    assert lone["gradients"][0] < 0.1 * lone["gradients"][2]
    held = rows["none, 3 blocks, scale 0.5"]
    assert held["gradients"][0] > 0.5 * held["gradients"][2]
    normed = rows["post, 3 blocks, scale 1"]
    assert normed["activations"] == pytest.approx([1.0] * 3, rel=1e-3)  # what LayerNorm gives at first


def test_the_whole_study_in_seconds(place):
    said = must("study", "gradients", *shlex.split(SMALL), "--out", "here")
    assert {"here/table.md", "here/figure.svg", "here/results.json"} <= everything(place)
    table = (place / "here/table.md").read_text()
    assert "| pre | trained, 3 blocks |" in table
    assert "| 8 | normalised |" in table
    assert "seed 0  entropy" in said
    must("study", "gradients", *shlex.split(SMALL.replace("--steps 2", "--steps 0")), "--out", "other")
    assert "trained" not in (place / "other/table.md").read_text()


def test_what_is_said_of_a_row():
    found = {"lost": "", "activations": [1.0, 1.0], "gradients": [1e-5, 1.0], "alike": 0.5}
    assert g.line(Job("x"), found) == "gradient, first over last block: 1e-05  vanishes"


@pytest.mark.parametrize(("words", "piece"), [
    ("study gradients --depths 0", "more than 0"), ("study gradients --scales 0", "more than 0"),
    ("study gradients --depth 3", "did you mean '--depths'"),
])  # fmt: skip
def test_wrong_words(place, words, piece):
    refused(place, words, 2, piece)


def test_numbers_that_overflow_are_told(place):
    """Without norms and with large weights, 24 blocks go beyond what float32 holds."""
    words = (
        "--depths 24 --scales 40 --width 16 --patch 6 --batch 2 --steps 0 --head-widths 8 --tokens 9 --data tiny.npz"
    )
    assert "not finite" in must("study", "gradients", *shlex.split(words), "--out", "here")
    assert "| none | 40 | - | - | - | not finite |" in (place / "here/table.md").read_text()
