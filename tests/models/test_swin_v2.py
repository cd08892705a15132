"""Swin V2: gradients, sizes, cosines and temperatures, other windows. Its numbers: `test_parity.py`."""

import dataclasses
import math

import pytest
import torch
from oracles import BESIDE, count, relative_error, swin_v2_timm, swin_v2_transformers, warm
from oracles import SWIN_2 as TINY
from quick import the_first
from safetensors.torch import load_file

import vitrail
from vitrail.contracts import Backbone
from vitrail.engine.optim import build_parameter_groups
from vitrail.layers.attention import merge_heads, named_attentions
from vitrail.models.swin_v2 import VARIANTS, build
from vitrail.types import TokenLayout
from vitrail.weights.rules import convert, revert
from vitrail.weights.tables.swin_v2 import SOURCES

timm = pytest.importorskip("timm")
PUBLISHED = {  # parameters in millions, multiply-adds in billions where published; name in timm
    "tiny_w8":   (28.35, 5.96, "swinv2_tiny_window8_256"),
    "small_w8":  (49.73, 11.58, "swinv2_small_window8_256"),
    "base_w8":   (87.92, 20.37, "swinv2_base_window8_256"),
    "tiny_w16":  (28.35, 6.68, "swinv2_tiny_window16_256"),
    "small_w16": (49.73, 12.82, "swinv2_small_window16_256"),
    "base_w16":  (87.92, 22.02, "swinv2_base_window16_256"),
    "base_w12_192":      (87.92, None, "swinv2_base_window12_192"),
    "large_w12_192":     (196.74, None, "swinv2_large_window12_192"),
    "base_w12to16_256":  (87.92, None, "swinv2_base_window12to16_192to256"),
    "large_w12to16_256": (196.74, None, "swinv2_large_window12to16_192to256"),
    "base_w12to24_384":  (87.92, None, "swinv2_base_window12to24_192to384"),
    "large_w12to24_384": (196.74, None, "swinv2_large_window12to24_192to384"),
}  # fmt: skip


def test_weights_from_other_windows_measure_displacements_in_those():
    theirs = swin_v2_timm(before=BESIDE)
    wrong = build(TINY).eval()
    wrong.load_state_dict(theirs.ours.backbone.state_dict())
    x = torch.randn(2, 3, 128, 128)
    with torch.no_grad():
        assert relative_error(wrong(x).summaries[0], theirs.ours.backbone(x).summaries[0]) > 1e-3


def test_gradients_equal_those_of_timm():
    """In double precision: the gradient of a temperature is a sum in which nearly everything cancels."""
    made = swin_v2_timm()
    ours, theirs = made.ours.double(), made.theirs.double()
    x = torch.randn(2, 3, 128, 128, dtype=torch.float64)
    for model in (ours, theirs):
        model(x).square().sum().backward()
    inside = "layers.0.blocks.1.attn."
    pairs = {inside + "qkv.weight": inside + "qkv.weight", inside + "q_bias": inside + "q_bias",
             inside + "logit_scale": inside + "logit_scale", inside + "relative.weight1": inside + "cpb_mlp.0.weight",
             "layers.2.downsample.norm.weight": "layers.2.downsample.norm.weight"}  # fmt: skip
    for mine, other in pairs.items():
        assert relative_error(ours.backbone.get_parameter(mine).grad, theirs.get_parameter(other).grad) < 1e-9


def test_transformers_stores_the_names_that_it_uses(tmp_path):
    pytest.importorskip("transformers")
    model = swin_v2_transformers().theirs
    model.save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == model.state_dict().keys()


def test_the_original_merges_one_stage_earlier_and_holds_buffers():
    ours = build(TINY).state_dict()
    made = revert({**ours, "heads.0.weight": torch.zeros(5, 128)}, SOURCES["original"])
    block = "layers.0.blocks.1."
    assert {"layers.0.downsample.reduction.weight", "head.weight", block + "attn.cpb_mlp.2.weight",
            block + "attn.q_bias",
            block + "attn.logit_scale", block + "norm1.weight"} <= made.keys()  # fmt: skip
    buffers = {block + "attn_mask", block + "attn.relative_position_index", block + "attn.relative_coords_table"}
    again = convert({**made, **dict.fromkeys(buffers, torch.zeros(1))}, SOURCES["original"])
    assert again.unknown == []
    assert again.dropped.keys() == buffers
    assert all(torch.equal(again.tensors[k], ours[k]) for k in ours)


@pytest.mark.parametrize("name", the_first(VARIANTS))
def test_parameters_and_multiply_adds_are_the_published(name):
    millions, billions, other = PUBLISHED[name]
    with torch.device("meta"):
        ours, theirs = vitrail.create(f"swin_v2/{name}", classes=1000), timm.create_model(other, num_classes=1000)
    assert count(ours) == count(theirs)
    assert abs(count(ours) / 1e6 - millions) < 0.006
    assert [b.windows.size for b in ours.backbone.blocks] == [b.window_size for s in theirs.layers for b in s.blocks]
    if name in (
        "tiny_w8",
        "tiny_w16",
        "small_w8",
    ):  # counting takes a while, and the others differ in width or depth alone
        assert abs(vitrail.cost(ours).macs / 1e9 / billions - 1) < 0.005


@pytest.mark.parametrize("size", [(128, 128), (1, 1), (30, 50), (65, 131)])
def test_every_size_gives_four_maps_and_their_mean(size):
    model = build(TINY).eval()
    features = model(torch.randn(2, 3, *size))
    assert isinstance(model, Backbone)
    for m, width, stride in zip(features.maps, model.map_widths, model.strides, strict=True):
        assert m.shape == (2, width, -(-size[0] // stride), -(-size[1] // stride))
    torch.testing.assert_close(features.summaries[0], features.maps[-1].mean((2, 3)))


def test_starts_with_blocks_that_do_nothing_and_the_published_numbers():
    model = build(TINY)
    x = torch.randn(2, 8, 8, 16)
    torch.testing.assert_close(model.blocks[1](x, TokenLayout((8, 8), (4, 4))), x)
    for block in model.blocks:
        attn = block.attn
        assert torch.allclose(attn.logit_scale, torch.tensor(math.log(10)))
        assert not any(
            p.any() for p in (attn.q_bias, attn.v_bias, attn.relative.bias1, attn.proj.bias, block.mlp.fc1.bias)
        )
        assert abs(float(attn.relative.weight2.detach().std()) - 0.02) < 0.003


def test_every_parameter_learns():
    model = warm(build(TINY)).train()
    for block in model.blocks:
        block.attn.logit_scale.data.fill_(1.0)
    model(torch.randn(2, 3, 128, 128)).summaries[0].square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_positions_and_temperatures_do_not_decay():
    model = build(TINY)
    decaying = {
        id(p) for g in build_parameter_groups(model, model.blocks, 0.1) if g["weight_decay"] for p in g["params"]
    }
    names = {n for n, p in model.named_parameters() if id(p) in decaying}
    assert not [n for n in names if "relative" in n or "logit_scale" in n or "norm" in n or n.endswith("bias")]
    assert "layers.0.blocks.0.attn.qkv.weight" in names


@pytest.mark.parametrize("extra", [
    {"channels": 5}, {"patch": 2}, {"mlp_ratio": 2.5}, {"qkv_bias": False}, {"drop_path": 0.5}, {"dropout": 0.2},
    {"attention_dropout": 0.2}, {"window": 3}, {"eps": 1e-2}, {"pretrained_windows": (6, 6, 6, 3)},
])  # fmt: skip
def test_every_option_acts_and_comes_back(extra):
    config = dataclasses.replace(TINY, **extra)
    model = warm(build(config))
    x = torch.randn(3, config.channels, 64, 64)
    (key,) = extra
    if key in ("drop_path", "dropout", "attention_dropout"):
        assert not torch.equal(model.train()(x).summaries[0], model(x).summaries[0])
    elif key in ("window", "eps", "pretrained_windows"):  # the same parameters, put to another use
        plain = build(TINY).eval()
        plain.load_state_dict(model.state_dict())
        assert relative_error(plain(x).summaries[0].detach(), model(x).summaries[0].detach()) > 1e-4
    else:
        assert {n: p.shape for n, p in model.named_parameters()} != {
            n: p.shape for n, p in build(TINY).named_parameters()
        }
    again = build(config).eval()
    again.load_state_dict(model.eval().state_dict())
    torch.testing.assert_close(again(x).summaries[0], model(x).summaries[0])
    torch.testing.assert_close(model(x[:1]).summaries[0], model(x).summaries[0][:1], rtol=1e-4, atol=1e-5)


def test_weights_are_cosines_and_what_forward_uses():
    model, seen = warm(build(TINY)), []

    def look(module, args, out):
        w, (q, k, v) = module.weights(*args), module.project(*args)[:3]
        scale = module.logit_scale.clamp(max=math.log(100)).exp()
        torch.testing.assert_close(q.norm(dim=-1) / q.shape[-1] ** 0.5, scale.squeeze(-1).expand(q.shape[:3]))
        assert float(k.norm(dim=-1).max()) < 1.00001
        torch.testing.assert_close(out, module.proj(merge_heads(w @ v)), rtol=1e-4, atol=1e-4)
        seen.append(w.shape)

    for module in named_attentions(model).values():
        module.register_forward_hook(look)
    with torch.no_grad():
        model(torch.randn(2, 3, 64, 100))
    assert seen[:2] == [(2 * 4 * 7, 2, 16, 16)] * 2
    assert len(seen) == 7


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_padding_is_harmless_in_half_precision(dtype):
    """A padded place has a key of no length, which has no direction."""
    model = warm(build(TINY)).to(dtype)
    features = model(torch.randn(2, 3, 40, 52, dtype=dtype))
    (features.summaries[0].float() * 1000).sum().backward()
    assert features.summaries[0].isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.slow
def test_a_compiled_block_equals_eager():
    torch.compiler.reset()  # a process that has compiled the same code often before leaves it uncompiled
    block = warm(build(TINY)).blocks[1]
    x, layout = torch.randn(2, 18, 25, 16), TokenLayout((18, 25), (4, 4))
    with torch.no_grad():
        torch.testing.assert_close(
            torch.compile(block, fullgraph=True)(x, layout), block(x, layout), rtol=1e-4, atol=1e-4
        )
