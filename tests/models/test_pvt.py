"""PVT takes any size, and its inner norms have an eps of their own. Its numbers: `test_parity.py`."""

import dataclasses

import pytest
import torch
from oracles import PVT as TINY
from oracles import compare, count, pvt_golden, pvt_transformers, relative_error
from quick import the_first
from torch import nn

import vitrail
from vitrail.contracts import Backbone
from vitrail.errors import UsageError
from vitrail.heads.linear import Classifier
from vitrail.layers.attention import merge_heads, named_attentions
from vitrail.models.pvt import VARIANTS, Config, build


def with_eps(made, eps):
    """The same pair, ours with another eps inside."""
    config = dataclasses.replace(made.ours.backbone.config, inner_eps=eps)
    ours = Classifier(build(config), made.ours.classes).eval()
    ours.load_state_dict(made.ours.state_dict())
    return dataclasses.replace(made, ours=ours)


def test_the_inner_norms_do_have_an_eps_of_their_own():
    assert compare(with_eps(pvt_golden((64, 64)), 0.01), (64, 64))["logits"] > 1e-3
    pytest.importorskip("transformers")
    assert (
        compare(with_eps(pvt_transformers(), Config().inner_eps), (64, 64))["logits"] < 1e-4
    )  # whose norms all have 1e-6


def test_gradients_equal_those_of_transformers():
    pytest.importorskip("transformers")
    made = pvt_transformers()
    ours, theirs, x = made.ours, made.theirs, torch.randn(3, 3, 64, 64)
    ours(x).square().sum().backward()
    theirs(x).logits.square().sum().backward()
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


@pytest.mark.parametrize(("name", "wanted", "millions", "gmacs"), the_first([
    ("tiny", 13_229_288, 13.2, 1.9), ("small", 24_485_864, 24.5, 3.8), ("medium", 44_208_104, 44.2, 6.7),
    ("large", 61_369_320, 61.4, 9.8),
]))  # fmt: skip
def test_sizes_are_the_published(name, wanted, millions, gmacs):
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        model = vitrail.create(f"pvt/{name}", classes=1000)
        theirs = transformers.PvtForImageClassification(
            transformers.PvtConfig(depths=list(VARIANTS[name].depths), num_labels=1000)
        )
    cost = vitrail.cost(model)
    assert cost.parameters == wanted == count(theirs)
    assert round(wanted / 1e6, 1) == millions
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
    assert [round(b.drop_path.drop_prob, 3) for b in model.blocks][::7] == [0.0, 0.5]
    rates = [b.drop_path.drop_prob for b in model.blocks]
    assert rates == sorted(rates)


def test_keys_come_from_the_coarser_grid_and_weights_are_what_forward_uses():
    model, seen = build(TINY).eval(), {}

    def look(name):
        def hook(module, args, out):
            w = module.weights(*args)
            torch.testing.assert_close(w.sum(-1), torch.ones_like(w[..., 0]))
            torch.testing.assert_close(
                out, module.proj(merge_heads(w @ module.project(*args).values)), rtol=1e-4, atol=1e-5
            )
            seen[name] = tuple(w.shape[1:])

        return hook

    for name, module in named_attentions(model).items():
        module.register_forward_hook(look(name))
    model(torch.randn(2, 3, 96, 64))
    wanted = [
        (1, 24 * 16, 6),
        (2, 12 * 8, 6),
        (5, 6 * 4, 6),
        (8, 7, 7),
    ]  # heads, queries, keys; the last stage has the class token
    assert [seen[f"stages.{i}.blocks.0.attn"] for i in range(4)] == wanted
    assert len(seen) == 8


def test_initialisation_is_the_stated_one():
    model = build(Config(depths=(1, 1, 1, 1)))
    assert abs(float(model.blocks[3].mlp.fc1.weight.detach().std()) - 0.02) < 0.001
    assert abs(float(model.stages[0].position.table.detach().std()) - 0.02) < 0.001
    assert not any(m.bias.any() for m in model.modules() if isinstance(m, nn.Linear))
    assert build(dataclasses.replace(TINY, qkv_bias=False)).blocks[0].attn.kv.bias is None


def test_says_what_cannot_be():
    with pytest.raises(UsageError, match="class token"):
        build(dataclasses.replace(TINY, reductions=(8, 4, 2, 2)))
    with pytest.raises(UsageError, match="is not divisible"):
        build(dataclasses.replace(TINY, heads=(3, 2, 5, 8)))
