"""PVT is the original, number for number (its own outputs are kept in a file), and takes any size."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

import vitrail
from vitrail.errors import UsageError
from vitrail.heads.linear import Classifier
from vitrail.layers.attention import attentions, merge_heads
from vitrail.models.pvt import VARIANTS, Config, build
from vitrail.types import Backbone
from vitrail.weights.rules import convert, revert
from vitrail.weights.tables.pvt import SOURCES

GOLDEN = Path(__file__).parents[1] / "golden" / "pvt_v1_tiny.safetensors"
TINY = Config(widths=(16, 32, 40, 64), depths=(2, 2, 2, 2), size=(64, 64))


def relative_error(a, b):
    return float((a - b).detach().norm() / b.detach().norm())


def loaded(config, state, source, classes):
    """A classifier with someone else's weights, by the table of names; the way back is exact."""
    made = convert(state, SOURCES[source])
    assert not made.unknown
    back = revert(made.tensors, SOURCES[source])
    assert back.keys() | made.dropped.keys() == state.keys()
    assert all(torch.equal(t, state[name]) for name, t in back.items())
    model = Classifier(build(config), classes)
    model.load_state_dict({k if k.startswith("heads.") else f"backbone.{k}": v for k, v in made.tensors.items()})
    return model.eval()


def transformers_model():
    transformers = pytest.importorskip("transformers")
    theirs = transformers.PvtForImageClassification(
        transformers.PvtConfig(hidden_sizes=[16, 32, 40, 64], depths=[2, 2, 2, 2], image_size=64, num_labels=5)
    ).eval()
    for p in theirs.parameters():
        p.data += 0.1 * torch.randn_like(p)  # nothing at zero or one
    return theirs


def test_equals_the_original_on_squares_and_rectangles():
    with safe_open(GOLDEN, "pt") as file:
        held, about = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    config = Config(widths=tuple(json.loads(about["embed_dims"])), depths=tuple(json.loads(about["depths"])), size=(64, 64))
    ours = loaded(config, {k.removeprefix("state."): v for k, v in held.items() if k.startswith("state.")}, "original", 10)
    with torch.no_grad():
        assert relative_error(ours(held["x"]), held["out"]) < 1e-5
        assert held["x_rect"].shape[-2:] == (96, 64)
        assert relative_error(ours(held["x_rect"]), held["out_rect"]) < 1e-5
        moved = loaded(dataclasses.replace(config, inner_eps=0.01), convert_back(ours), "original", 10)
        assert relative_error(moved(held["x"]), held["out"]) > 1e-3  # the inner norms do have an eps of their own


def convert_back(model):
    return revert({k.removeprefix("backbone."): v for k, v in model.state_dict().items()}, SOURCES["original"])


def test_equals_transformers_where_all_norms_have_one_eps():
    theirs, x = transformers_model(), torch.randn(3, 3, 64, 64)
    ours = loaded(dataclasses.replace(TINY, inner_eps=1e-6), dict(theirs.state_dict()), "transformers", 5)
    a, b = ours(x), theirs(x).logits
    assert relative_error(a, b) < 1e-5
    assert relative_error(loaded(TINY, dict(theirs.state_dict()), "transformers", 5)(x), b) < 1e-4  # with the original's eps
    a.square().sum().backward()
    b.square().sum().backward()
    for mine, yours in [
        ("stages.0.patch_embed.proj.weight", "patch_embeddings.0.projection.weight"),
        ("stages.0.blocks.1.attn.sr.weight", "block.0.1.attention.self.sequence_reduction.weight"),
        ("stages.2.blocks.0.attn.q.weight", "block.2.0.attention.self.query.weight"),
        ("stages.3.blocks.1.mlp.fc1.bias", "block.3.1.mlp.dense1.bias"),
    ]:
        g = ours.get_parameter(f"backbone.{mine}").grad
        assert relative_error(g, theirs.get_parameter(f"pvt.encoder.{yours}").grad) < 1e-4
    g = ours.get_parameter("backbone.stages.3.position.table").grad
    assert relative_error(g, theirs.pvt.encoder.patch_embeddings[3].position_embeddings.grad[0]) < 1e-4


@pytest.mark.parametrize(("name", "count", "millions", "gmacs"), [
    ("tiny", 13_229_288, 13.2, 1.9), ("small", 24_485_864, 24.5, 3.8), ("medium", 44_208_104, 44.2, 6.7), ("large", 61_369_320, 61.4, 9.8),
])  # fmt: skip
def test_sizes_are_the_published(name, count, millions, gmacs):
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        model = vitrail.create(f"pvt/{name}", classes=1000)
        theirs = transformers.PvtForImageClassification(transformers.PvtConfig(depths=list(VARIANTS[name].depths), num_labels=1000))
    cost = vitrail.cost(model)
    assert cost.parameters == count == sum(p.numel() for p in theirs.parameters())
    assert round(count / 1e6, 1) == millions
    assert round(cost.macs / 1e9, 1) == gmacs


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (40, 72), (50, 30), (8, 8)])
def test_takes_every_size(size):
    model = build(TINY).eval()
    assert isinstance(model, Backbone)
    features = model(torch.randn(2, 3, *size))
    assert features.summaries[0].shape == (2, 64)
    assert model.strides == (4, 8, 16, 32)
    for made, width, stride in zip(features.maps, model.map_widths, model.strides, strict=True):
        assert made.shape == (2, width, -(-size[0] // stride), -(-size[1] // stride))


def test_every_parameter_learns():
    model = build(dataclasses.replace(TINY, drop_path=0.1, dropout=0.1, attention_dropout=0.1, channels=5))
    features = model.train()(torch.randn(2, 5, 64, 64))
    (features.summaries[0].square().sum() + sum(m.square().mean() for m in features.maps)).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert len(model.blocks) == 8


def test_evaluation_does_not_depend_on_the_batch_and_training_is_random():
    model = build(dataclasses.replace(TINY, drop_path=0.5, dropout=0.2, attention_dropout=0.2))
    x = torch.randn(3, 3, 64, 64)
    assert not torch.equal(model.train()(x).summaries[0], model(x).summaries[0])
    together = model.eval()(x)
    torch.testing.assert_close(model(x[1:2]).summaries[0], together.summaries[0][1:2], rtol=1e-4, atol=1e-5)
    assert [round(b.drop_path.rate, 3) for b in model.blocks][::7] == [0.0, 0.5]
    rates = [b.drop_path.rate for b in model.blocks]
    assert rates == sorted(rates)


def test_keys_come_from_the_coarser_grid_and_weights_are_what_forward_uses():
    model, seen = build(TINY).eval(), {}

    def look(name):
        def hook(module, args, out):
            w = module.weights(*args)
            torch.testing.assert_close(w.sum(-1), torch.ones_like(w[..., 0]))
            torch.testing.assert_close(out, module.proj(merge_heads(w @ module.project(*args).values)), rtol=1e-4, atol=1e-5)
            seen[name] = tuple(w.shape[1:])

        return hook

    for name, module in attentions(model).items():
        module.register_forward_hook(look(name))
    model(torch.randn(2, 3, 96, 64))
    wanted = [(1, 24 * 16, 6), (2, 12 * 8, 6), (5, 6 * 4, 6), (8, 7, 7)]  # heads, queries, keys; the last stage has the class token
    assert [seen[f"stages.{i}.blocks.0.attn"] for i in range(4)] == wanted
    assert len(seen) == 8


def test_initialisation_is_the_stated_one():
    model = build(Config(depths=(1, 1, 1, 1)))
    assert abs(float(model.blocks[3].mlp.fc1.weight.detach().std()) - 0.02) < 0.001
    assert abs(float(model.stages[0].position.table.detach().std()) - 0.02) < 0.001
    assert not any(m.bias.any() for m in model.modules() if isinstance(m, nn.Linear))
    assert build(dataclasses.replace(TINY, qkv_bias=False)).blocks[0].attn.kv.bias is None


def test_exports_for_any_batch():
    model, x = build(TINY).eval(), torch.randn(2, 3, 96, 64)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    x = torch.randn(3, *x.shape[1:])
    torch.testing.assert_close(program.module()(x).summaries[0], model(x).summaries[0])


def test_says_what_cannot_be():
    with pytest.raises(UsageError, match="class token"):
        build(dataclasses.replace(TINY, reductions=(8, 4, 2, 2)))
    with pytest.raises(UsageError, match="does not divide"):
        build(dataclasses.replace(TINY, heads=(3, 2, 5, 8)))
