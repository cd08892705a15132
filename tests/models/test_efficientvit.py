"""EfficientViT (MIT): its attention is the paper's formula, its options do what they say. Its numbers:
`test_parity.py`."""

import dataclasses

import pytest
import torch
from oracles import EFFICIENT as BASE
from oracles import EFFICIENT_LARGE as LARGE
from oracles import count, efficientvit_timm, relative_error, stir
from quick import every_third, the_first
from torch import nn

import vitrail
from vitrail.contracts import Backbone
from vitrail.errors import UsageError
from vitrail.heads.linear import Classifier
from vitrail.layers.attention import named_attentions
from vitrail.models.efficientvit import VARIANTS, Config, Fused, LinearAttention, Residual, build
from vitrail.weights.rules import convert, revert
from vitrail.weights.tables.efficientvit import SOURCES

PLANS = pytest.mark.parametrize("config", [BASE, LARGE], ids=["base", "large"])
SIZES = [(64, 64), (70, 45), (33, 96)]


def without_heads(state):
    return {k.removeprefix("backbone."): v for k, v in state.items()}


@PLANS
def test_gradients_equal_timms(config):
    pytest.importorskip("timm")
    made = efficientvit_timm(config)
    ours, theirs = made.ours, made.theirs
    x = torch.randn(2, 3, 64, 64)
    for model in (ours, theirs):
        model(x).square().sum().backward()
    for name, other in (
        ("stages.2.blocks.1.{}.main.qkv.weight", "stages.2.blocks.1.{}.main.qkv.conv.weight"),
        ("stages.3.blocks.2.{}.main.aggreg.0.1.weight",) * 2,
        ("stages.0.blocks.1.main.point_conv.norm.weight",) * 2,
        ("stem.in_conv.conv.weight",) * 2,
    ):
        if config.plan == "large":  # whose third stage has no attention
            name, other = name.replace("stages.2", "stages.3"), other.replace("stages.2", "stages.3")
        a = ours.get_parameter(f"backbone.{name.format('context_module')}").grad
        assert relative_error(a, theirs.get_parameter(other.format("context_module")).grad) < 1e-5


def test_timms_eps_is_another_model():
    """By little: the original divides by what is left of 1e-15."""
    x = torch.randn(2, 3, 64, 64)
    model = stir(build(dataclasses.replace(BASE, eps=1e-2)))
    other = build(BASE).eval()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert relative_error(model(x).summaries[0], other(x).summaries[0]) > 1e-4
    assert Config().eps == 1e-15


@PLANS
@pytest.mark.parametrize("source", ["timm", "original"])
def test_names_go_there_and_back(config, source):
    state = without_heads(Classifier(build(config), 5).state_dict())
    rules = SOURCES["original_large" if source == "original" and config.plan == "large" else source]
    theirs = revert(state, rules)
    back = convert(theirs, rules)
    assert not back.unknown
    assert not back.dropped
    assert sorted(back.tensors) == sorted(state)
    assert all(torch.equal(back.tensors[k], state[k]) for k in state)
    if source == "timm":
        pytest.importorskip("timm")
        assert set(theirs) == set(efficientvit_timm(config).theirs.state_dict())


def test_names_are_the_originals():
    base = revert(without_heads(Classifier(build(BASE), 5).state_dict()), SOURCES["original"])
    assert {
        "backbone.input_stem.op_list.0.conv.weight", "backbone.input_stem.op_list.1.main.depth_conv.norm.running_var",
        "backbone.stages.0.op_list.1.main.inverted_conv.conv.weight",
        "backbone.stages.2.op_list.0.main.inverted_conv.conv.bias",
        "backbone.stages.2.op_list.1.context_module.main.qkv.conv.weight",
        "backbone.stages.3.op_list.2.context_module.main.aggreg.0.1.weight",
        "backbone.stages.3.op_list.2.local_module.main.point_conv.norm.weight",
        "head.op_list.0.norm.bias", "head.op_list.2.linear.weight", "head.op_list.2.norm.bias",
        "head.op_list.3.linear.bias",
    } <= set(base)  # fmt: skip
    large = revert(without_heads(Classifier(build(LARGE), 5).state_dict()), SOURCES["original_large"])
    assert {
        "backbone.stages.0.op_list.0.conv.weight", "backbone.stages.0.op_list.1.main.conv2.norm.weight",
        "backbone.stages.1.op_list.0.main.spatial_conv.conv.weight",
        "backbone.stages.3.op_list.1.main.depth_conv.conv.bias",
        "backbone.stages.4.op_list.1.context_module.main.qkv.conv.weight",
    } <= set(large)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "millions"),
    [("b0", 3.41), ("b1", 9.10), ("b2", 24.33), ("b3", 48.65), ("l1", 52.65), ("l2", 63.71), ("l3", 246.04)],
)
def test_parameter_counts_are_the_published(name, millions):
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        ours, theirs = vitrail.create(f"efficientvit/{name}", classes=1000), timm.create_model(f"efficientvit_{name}")
    assert count(ours) == count(theirs)
    assert abs(count(ours) / 1e6 - millions) < 0.005


@pytest.mark.parametrize(
    ("name", "gmacs"),
    the_first([("b0", 0.10), ("b1", 0.53), ("b2", 1.60), ("b3", 3.99), ("l1", 5.27), ("l2", 6.97), ("l3", 27.62)]),
)
def test_multiply_adds_are_the_published(name, gmacs):
    """The published figures count two operations for every number that a BatchNorm puts out, as fvcore does; ours leave
    out norms, since they can be folded into the convolutions. With them the figures are equal to the last digit,
    without within 2 %."""
    with torch.device("meta"):
        model = vitrail.create(f"efficientvit/{name}", classes=1000).eval()
    macs = vitrail.cost(model, 224).macs
    normed = []
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.register_forward_hook(lambda m, args, out: normed.append(out.numel()))
    model(torch.empty(1, 3, 224, 224, device="meta"))
    assert abs((macs + 2 * sum(normed)) / 1e9 - gmacs) < 0.005
    assert abs(macs / 1e9 / gmacs - 1) < 0.021


@PLANS
@pytest.mark.parametrize("size", [*SIZES, (17, 32), (1, 1)])
def test_takes_any_size(config, size):
    model = build(config).eval()
    features = model(torch.randn(2, 3, *size))
    assert isinstance(model, Backbone)
    for m, width, stride in zip(features.maps, model.map_widths, model.strides, strict=True):
        assert m.shape == (2, width, -(-size[0] // stride), -(-size[1] // stride))
    assert features.summaries[0].shape == (2, *model.summary_widths)


@PLANS
def test_blocks_are_in_order_of_depth(config):
    model = build(config)
    order = []
    for i, block in enumerate(model.blocks):
        block.register_forward_hook(lambda m, args, out, i=i: order.append(i))
    model(torch.randn(2, 3, 64, 64))
    wanted = sum(config.depths[1:]) + (2 if config.plan == "base" else 4)  # a first block beside those counted
    assert order == list(range(wanted))


@PLANS
def test_every_parameter_learns(config):
    model = stir(build(config))
    features = model(torch.randn(2, 3, 64, 64))
    (features.summaries[0].square().sum() + sum(m.square().mean() for m in features.maps)).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@PLANS
@pytest.mark.parametrize("extra", every_third([
    {"channels": 5}, {"scales": (3, 5)}, {"scales": ()}, {"head_width": 16, "widths": (8, 16, 24, 32, 32)},
    {"pre_logits": None}, {"dropout": 0.1}, {"drop_path": 0.5}, {"zero_last": False},
]))  # fmt: skip
def test_every_option_runs_trains_and_comes_back(config, extra):
    config = dataclasses.replace(config, **extra)
    model = stir(build(config))
    x = torch.randn(3, config.channels, 64, 64)
    features = model.train()(x)
    features.summaries[0].square().sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in model.parameters())
    again = build(config)
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again.eval()(x).summaries[0], model.eval()(x).summaries[0])
    torch.testing.assert_close(model(x[:1]).summaries[0], model(x).summaries[0][:1], rtol=1e-4, atol=1e-5)


def test_without_hidden_layers_the_summary_is_the_mean():
    features = build(dataclasses.replace(BASE, pre_logits=None)).eval()(torch.randn(2, 3, 64, 64))
    torch.testing.assert_close(features.summaries[0], features.maps[-1].mean((2, 3)))


def test_attention_is_the_papers_formula():
    """The same with every weight written out, as one may when cells are few."""
    layer = LinearAttention(dataclasses.replace(BASE, head_width=4), 8)
    heads = torch.randn(2, 4, 12, 7, dtype=torch.float64)
    q, k, v = heads.chunk(3, dim=2)
    shares = q.relu().mT @ k.relu()  # [B heads queries keys]
    shares = shares / (shares.sum(-1, keepdim=True) + 1e-15)
    torch.testing.assert_close(layer.attend(heads), v @ shares.mT)
    assert not named_attentions(build(BASE))


def test_attention_is_float32_under_autocast():
    layer = stir(LinearAttention(BASE, 16))
    seen = []
    attend = layer.attend

    def look(heads):
        seen.append((heads.dtype, torch.is_autocast_enabled("cpu")))
        return attend(heads)

    layer.attend = look
    x = torch.randn(1, 16, 9, 9)
    with torch.no_grad():
        plain = layer(x)
        with torch.autocast("cpu", torch.bfloat16):
            half = layer(x)
    assert seen == [(torch.float32, False), (torch.bfloat16, False)]
    assert relative_error(half.float(), plain) < 0.02
    whole = build(BASE).to(torch.bfloat16).eval()
    assert whole(torch.randn(2, 3, 32, 32, dtype=torch.bfloat16)).summaries[0].dtype == torch.bfloat16


def test_dropout_and_drop_path_act_in_training_only():
    x = torch.randn(4, 3, 64, 64)
    for config in (dataclasses.replace(BASE, drop_path=0.9), dataclasses.replace(BASE, dropout=0.5)):
        model = stir(build(config))
        assert not torch.equal(model.train()(x).summaries[0], model(x).summaries[0])
        assert torch.equal(model.eval()(x).summaries[0], model(x).summaries[0])


@pytest.mark.parametrize(("config", "spared"), [(BASE, 1), (LARGE, 3)])
def test_drop_path_rises_to_the_last_branch(config, spared):
    model = build(dataclasses.replace(config, drop_path=0.4))
    rates = [m.drop_path.drop_prob for m in model.modules() if isinstance(m, Residual)]
    assert rates[:spared] == [0.0] * spared
    rising = rates[spared:]
    assert rising == pytest.approx([0.4 * (i + 1) / len(rising) for i in range(len(rising))])


def test_initialisation_is_the_stated_one():
    model = build(dataclasses.replace(LARGE, widths=(16, 32, 64, 128, 256), head_width=32))
    assert abs(float(model.stages[3].blocks[0].main.inverted_conv.conv.weight.detach().std()) - 0.02) < 0.001
    for m in model.modules():
        if isinstance(m, Residual) and hasattr(m.main, "point_conv"):
            assert bool(m.main.point_conv.norm.weight.any()) == isinstance(m.main, Fused)
        if isinstance(m, LinearAttention):
            assert not m.proj.norm.weight.any()


def test_the_large_plan_exports_with_any_batch():
    model = build(LARGE).eval()
    x = torch.randn(2, 3, 64, 48)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},))
    y = torch.randn(5, 3, 64, 48)
    torch.testing.assert_close(program.module()(y).summaries[0], model(y).summaries[0])


@pytest.mark.parametrize(
    ("keys", "said"), [({"head_width": 10}, r"nearest that work: \[30, 40\]"), ({"scales": (4,)}, "3 and 5")]
)
def test_says_what_cannot_be(keys, said):
    with pytest.raises(UsageError, match=said):
        build(dataclasses.replace(BASE, **keys))


def test_every_variant_can_be_built():
    for name, config in VARIANTS.items():
        with torch.device("meta"):
            model = vitrail.backbone(f"efficientvit/{name}")
        assert model.config == config
        assert model.map_widths == config.widths[1:]
