"""MobileViT: gradients and running means, published sizes, folding, options. Its numbers: `test_parity.py`."""

import dataclasses

import pytest
import torch
from oracles import MOBILE as TINY
from oracles import count, mobilevit_timm, mobilevit_transformers, relative_error

import vitrail
from vitrail.contracts import Backbone
from vitrail.layers.attention import merge_heads, named_attentions
from vitrail.models.mobilevit import build, fold, resize, unfold
from vitrail.weights.rules import convert, revert
from vitrail.weights.tables.mobilevit import SOURCES

ORACLES = {"timm": mobilevit_timm, "transformers": mobilevit_transformers}


def without_dropout(model):
    for m in model.modules():
        if isinstance(m, torch.nn.Dropout):
            m.p = 0.0
    return model


@pytest.mark.parametrize("source", ORACLES)
def test_gradients_and_running_means_equal_theirs(source):
    pytest.importorskip(source)
    made = ORACLES[source]()
    ours, theirs = made.ours.train(), without_dropout(made.theirs).train()
    x = torch.rand(2, 3, 70, 50)
    ours(x).square().sum().backward()
    made.logits(x).square().sum().backward()
    wanted = convert({name: p.grad for name, p in theirs.named_parameters()}, SOURCES[source]).tensors
    for name in ("stem.conv.weight", "stages.1.0.conv2_kxk.bn.weight", "stages.2.1.transformer.0.attn.qkv.weight",
                 "stages.4.1.conv_1x1.weight"):  # fmt: skip
        assert relative_error(ours.get_parameter(f"backbone.{name}").grad, wanted[name]) < 1e-4
    buffers = convert(dict(theirs.named_buffers()), SOURCES[source]).tensors
    torch.testing.assert_close(dict(ours.backbone.named_buffers()), buffers)


def test_names_of_the_original_go_both_ways():
    """No package holds the original, so ours are written in its names and read again; a few names are known from its
    code."""
    state = build(TINY).state_dict()
    theirs = revert({**state, "heads.0.weight": torch.rand(5, 40), "heads.0.bias": torch.rand(5)}, SOURCES["original"])
    for name, shape in {
        "conv_1.block.conv.weight": (8, 3, 3, 3), "layer_2.2.block.exp_1x1.block.conv.weight": (32, 16, 1, 1),
        "layer_3.0.block.red_1x1.block.norm.bias": (16,), "layer_3.1.local_rep.conv_3x3.block.norm.running_var": (16,),
        "layer_3.1.local_rep.conv_1x1.block.conv.weight": (16, 16, 1, 1),
        "layer_4.1.global_rep.3.pre_norm_ffn.4.bias": (24,),
        "layer_4.1.global_rep.4.weight": (24,), "layer_5.1.global_rep.2.pre_norm_mha.1.qkv_proj.weight": (96, 32),
        "layer_5.1.fusion.block.conv.weight": (32, 64, 3, 3), "conv_1x1_exp.block.norm.weight": (40,),
        "classifier.fc.weight": (5, 40),
    }.items():  # fmt: skip
        assert theirs[name].shape == shape
    made = convert(theirs, SOURCES["original"])
    assert not made.unknown
    assert all(torch.equal(made.tensors[name], state[name]) for name in state)


@pytest.mark.parametrize(("name", "millions", "gmacs"), [("xxs", 1.27, 0.41), ("xs", 2.32, 1.03), ("s", 5.58, 2.0)])
def test_parameters_and_multiply_adds_are_the_published(name, millions, gmacs):
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        ours, theirs = vitrail.create(f"mobilevit/{name}", classes=1000), timm.create_model(f"mobilevit_{name}")
    assert count(ours) == count(theirs)
    assert round(count(ours) / 1e6, 2) == millions
    made = revert({n.removeprefix("backbone."): t for n, t in ours.state_dict().items()}, SOURCES["timm"])
    assert {n: t.shape for n, t in made.items()} == {n: t.shape for n, t in theirs.state_dict().items()}
    assert abs(vitrail.cost(ours).macs / 1e9 - gmacs) < 0.01


def test_maps_and_summary_are_as_declared():
    model = build(TINY).eval()
    assert isinstance(model, Backbone)
    assert len(model.blocks) == 1 + 3 + 3 * 2
    for size in ((64, 64), (70, 50), (33, 95)):
        features = model(torch.rand(2, 3, *size))
        assert [m.shape for m in features.maps] == [
            (2, width, -(-size[0] // stride), -(-size[1] // stride))
            for width, stride in zip(model.map_widths, model.strides, strict=True)
        ]
        assert [s.shape for s in features.summaries] == [(2, width) for width in model.summary_widths]


def test_every_parameter_learns_and_belongs_to_one_block():
    model = build(dataclasses.replace(TINY, channels=4))
    features = model(torch.rand(2, 4, 64, 64))
    (features.summaries[0].square().sum() + sum(m.square().mean() for m in features.maps)).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    inside = [id(p) for block in model.blocks for p in block.parameters()]
    assert (
        len(inside) == len(set(inside)) == len(list(model.parameters())) - 3 - 3
    )  # all but the stem's and the last convolution's


def test_one_sequence_is_one_place_of_every_patch():
    x = torch.arange(24.0).view(1, 1, 4, 6)  # two by three patches
    sequences = unfold(x, 2)
    assert sequences.shape == (4, 6, 1)
    assert sequences[1, :, 0].tolist() == [1, 3, 5, 13, 15, 17]  # right of the first of every patch
    assert torch.equal(fold(sequences, (2, 3), 2), x)
    assert resize(x, (4, 6)) is x


def test_weights_are_what_forward_uses():
    model = build(TINY).eval()
    seen = {}

    def hook(module, args, out):
        w = module.weights(*args)
        torch.testing.assert_close(
            out, module.proj(merge_heads(w @ module.project(*args).values)), rtol=1e-4, atol=1e-5
        )
        seen[w.shape] = seen.get(w.shape, 0) + 1

    for module in named_attentions(model).values():
        module.register_forward_hook(hook)
    model(torch.rand(2, 3, 96, 64))
    assert seen == {(8, 4, 24, 24): 2, (8, 4, 6, 6): 4, (8, 4, 2, 2): 3}  # four sequences an image


@pytest.mark.parametrize("extra", [
    {"dropout": 0.5}, {"attention_dropout": 0.5}, {"drop_path": 0.9}, {"expand": 4.0}, {"heads": 2}, {"mlp_ratio": 3.0},
    {"patch": 4}, {"depths": (1, 0, 2)}, {"convs": (2, 1)}, {"summary_width": 24},
])  # fmt: skip
def test_every_option_acts(extra):
    model = build(dataclasses.replace(TINY, **extra))
    x = torch.rand(2, 3, 64, 64)
    random = any("drop" in key for key in extra)
    model.train()
    assert torch.equal(model(x).summaries[0], model(x).summaries[0]) != random
    model.eval()
    assert torch.equal(model(x).summaries[0], model(x).summaries[0])
    torch.testing.assert_close(model(x[:1]).summaries[0], model(x).summaries[0][:1], rtol=1e-4, atol=1e-5)
    plain = build(TINY)
    same = {n: p.shape for n, p in plain.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}
    assert same == (random or extra.keys() <= {"heads", "patch"})


def test_starts_as_the_original_does():
    model = build(dataclasses.replace(TINY, widths=(32, 64, 96, 128, 160), token_widths=(64, 96, 128)))
    conv = model.stages[4][1].conv_fusion.conv.weight.detach()
    assert abs(float(conv.std()) / (2 / (160 * 9)) ** 0.5 - 1) < 0.02
    linear = model.stages[4][1].transformer[0].attn.qkv
    assert abs(float(linear.weight.detach().std()) - 0.02) < 1e-3
    assert not linear.bias.any()
