"""PVT v2 takes any size, has the published cost and the gradients of timm's. Its numbers: `test_parity.py`."""

import dataclasses

import pytest
import torch
from oracles import PVT_2 as TINY
from oracles import compare, count, pvt_v2_timm, pvt_v2_transformers, relative_error
from quick import the_first
from torch import nn

import vitrail
from vitrail.contracts import Backbone
from vitrail.heads.linear import Classifier
from vitrail.layers.attention import merge_heads, named_attentions
from vitrail.models.pvt_v2 import VARIANTS, build
from vitrail.weights.rules import convert, revert
from vitrail.weights.tables.pvt_v2 import SOURCES

KINDS = [None, 7]  # convolution, pool


@pytest.mark.parametrize("pool", KINDS)
def test_gradients_equal_timms(pool):
    pytest.importorskip("timm")
    made, x = pvt_v2_timm(pool), torch.randn(2, 3, 64, 96)
    ours, theirs = made.ours, made.theirs
    for model in (ours, theirs):
        model(x).square().sum().backward()
    for name in ("patch_embed.proj.weight", "stages.0.blocks.0.attn.sr.weight", "stages.1.downsample.norm.weight",
                 "stages.1.blocks.1.attn.kv.weight", "stages.2.blocks.0.mlp.dwconv.weight",
                 "stages.3.norm.bias"):  # fmt: skip
        assert relative_error(ours.get_parameter(f"backbone.{name}").grad, theirs.get_parameter(name).grad) < 1e-4


@pytest.mark.parametrize("pool", KINDS)
def test_the_originals_inner_eps_is_close_to_that_of_transformers(pool):
    pytest.importorskip("transformers")
    made = pvt_v2_transformers(pool)
    ours = Classifier(build(dataclasses.replace(TINY, pool=pool)), 5).eval()
    ours.load_state_dict(made.ours.state_dict())
    assert 0 < compare(dataclasses.replace(made, ours=ours), (96, 64))["logits"] < 1e-4


@pytest.mark.parametrize("pool", KINDS)
def test_names_of_the_original_become_ours(pool):
    """The original counts stages from 1 and wraps the depthwise convolution once more."""
    ours = Classifier(build(dataclasses.replace(TINY, pool=pool)), 5)
    state = {k.removeprefix("backbone."): v for k, v in ours.state_dict().items()}
    theirs = revert(state, SOURCES["original"])
    assert {"patch_embed1.proj.weight", "patch_embed4.norm.bias", "block1.0.attn.sr.weight",
            "block2.1.mlp.dwconv.dwconv.bias",
            "block4.0.attn.kv.weight", "norm1.weight", "norm4.bias", "head.weight"} <= theirs.keys()  # fmt: skip
    made = convert(theirs, SOURCES["original"])
    assert not made.unknown
    assert made.tensors.keys() == state.keys()


def counted(model):
    """Multiply-adds as the published numbers count them: five for every element of a LayerNorm, one for every averaged
    cell."""
    extra = []
    for m in model.modules():
        if isinstance(m, nn.LayerNorm):
            m.register_forward_hook(lambda module, args, out: extra.append(5 * out.numel()))
        if isinstance(m, nn.AdaptiveAvgPool2d):
            m.register_forward_hook(lambda module, args, out: extra.append(args[0].numel()))
    with torch.no_grad():
        model(torch.empty(1, 3, *model.backbone.config.size, device="meta"))
    return sum(extra)


@pytest.mark.parametrize(("name", "millions", "gmacs"), the_first([
    ("b0", 3.67, 0.57), ("b1", 14.01, 2.12), ("b2", 25.36, 4.05), ("b2_li", 22.55, 3.91), ("b3", 45.24, 6.92),
    ("b4", 62.56, 10.14), ("b5", 81.96, 11.76),
]))  # fmt: skip
def test_sizes_are_the_published(name, millions, gmacs):
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        model, theirs = vitrail.create(f"pvt_v2/{name}", classes=1000), timm.create_model(f"pvt_v2_{name}")
    cost = vitrail.cost(model)
    assert cost.parameters == count(theirs)
    assert round(cost.parameters / 1e6, 2) == millions
    assert abs(cost.macs / 1e9 / gmacs - 1) < 0.008
    assert round((cost.macs + counted(model)) / 1e9, 2) == gmacs


@pytest.mark.parametrize("pool", KINDS)
@pytest.mark.parametrize("size", [(64, 64), (96, 64), (50, 30), (9, 8)])
def test_takes_every_size(pool, size):
    model = build(dataclasses.replace(TINY, pool=pool)).eval()
    assert isinstance(model, Backbone)
    features = model(torch.randn(2, 3, *size))
    torch.testing.assert_close(features.summaries[0], features.maps[-1].mean((2, 3)))
    for made, width, stride in zip(features.maps, model.map_widths, model.strides, strict=True):
        assert made.shape == (2, width, -(-size[0] // stride), -(-size[1] // stride))


@pytest.mark.parametrize("pool", KINDS)
def test_every_parameter_learns(pool):
    model = build(dataclasses.replace(TINY, pool=pool, drop_path=0.1, dropout=0.1, attention_dropout=0.1, channels=1))
    features = model.train()(torch.randn(4, 1, 64, 64))
    (features.summaries[0].square().sum() + sum(m.square().mean() for m in features.maps)).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert len(model.blocks) == 5


@pytest.mark.parametrize("pool", KINDS)
def test_evaluation_does_not_depend_on_the_batch_and_training_is_random(pool):
    model = build(dataclasses.replace(TINY, pool=pool, drop_path=0.5, dropout=0.2, attention_dropout=0.2))
    x = torch.randn(3, 3, 64, 64)
    assert not torch.equal(model.train()(x).summaries[0], model(x).summaries[0])
    together = model.eval()(x)
    torch.testing.assert_close(model(x[1:2]).summaries[0], together.summaries[0][1:2], rtol=1e-4, atol=1e-5)
    assert [b.drop_path.drop_prob for b in model.blocks] == [0.0, 0.125, 0.25, 0.375, 0.5]


@pytest.mark.parametrize(("pool", "keys"), [(None, (6, 6, 6, 6)), (7, (49, 49, 49, 49))])
def test_weights_are_what_forward_uses(pool, keys):
    model, seen = build(dataclasses.replace(TINY, pool=pool)).eval(), {}

    def look(name):
        def hook(module, args, out):
            w = module.weights(*args)
            torch.testing.assert_close(w.sum(-1), torch.ones_like(w[..., 0]))
            torch.testing.assert_close(
                out, module.proj(merge_heads(w @ module.project(*args).values)), rtol=1e-4, atol=1e-5
            )
            seen[name] = w.shape[-1]

        return hook

    for name, module in named_attentions(model).items():
        module.register_forward_hook(look(name))
    model(torch.randn(2, 3, 96, 64))
    assert tuple(seen[f"stages.{i}.blocks.0.attn"] for i in range(4)) == keys
    assert len(seen) == 5


def test_initialisation_is_the_stated_one():
    model = build(dataclasses.replace(VARIANTS["b0"], depths=(1, 1, 1, 1)))
    assert abs(float(model.blocks[3].mlp.fc1.weight.detach().std()) - 0.02) < 0.001
    assert abs(float(model.patch_embed.proj.weight.detach().std()) / (2 / (49 * 32)) ** 0.5 - 1) < 0.05
    assert abs(float(model.blocks[3].mlp.dwconv.weight.detach().std()) / (2 / 9) ** 0.5 - 1) < 0.05
    assert not any(m.bias.any() for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d))


def test_linear_attention_exports_for_any_batch():
    model, x = build(dataclasses.replace(TINY, pool=7)).eval(), torch.randn(2, 3, 96, 64)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    x = torch.randn(3, *x.shape[1:])
    torch.testing.assert_close(program.module()(x).summaries[0], model(x).summaries[0])
