"""EfficientViT (Microsoft): gradients, sizes, windows and the cascade of heads. Its numbers: `test_parity.py`."""

import dataclasses

import pytest
import torch
from oracles import MSRA as TINY
from oracles import count, msra_timm, relative_error, stir
from quick import the_first

import vitrail
from vitrail.contracts import Backbone
from vitrail.errors import UsageError
from vitrail.heads.linear import Classifier
from vitrail.layers.attention import named_attentions
from vitrail.models.efficientvit_msra import VARIANTS, build, distances
from vitrail.types import TokenLayout
from vitrail.weights.rules import convert, revert
from vitrail.weights.tables.efficientvit_msra import SOURCES


def without_heads(state):
    return {k.removeprefix("backbone."): v for k, v in state.items()}


def test_gradients_equal_timms():
    pytest.importorskip("timm")
    made = msra_timm((224, 224))
    ours, theirs = made.ours, made.theirs
    x = torch.randn(2, 3, 128, 96)
    for model in (ours, theirs):
        model(x).square().sum().backward()
    attn = "stages.1.blocks.1.mixer.m.attn"
    for name, other in (
        (f"{attn}.cascade.1.qkv.conv.weight", f"{attn}.qkvs.1.conv.weight"),
        (f"{attn}.cascade.0.dw.conv.weight", f"{attn}.dws.0.conv.weight"),
        (f"{attn}.attention_biases",) * 2,
        ("stages.2.downsample.patchmerge.se.fc1.weight",) * 2,
        ("patch_embed.conv1.conv.weight",) * 2,
        ("norms.0.weight", "head.bn.weight"),
    ):
        assert relative_error(ours.get_parameter(f"backbone.{name}").grad, theirs.get_parameter(other).grad) < 1e-5


@pytest.mark.parametrize("source", ["timm", "original"])
def test_names_go_there_and_back(source):
    summaries = 2 if source == "original" else 1
    state = without_heads(Classifier(build(dataclasses.replace(TINY, summaries=summaries)), 5).state_dict())
    theirs = revert(state, SOURCES[source])
    back = convert({**theirs, "blocks1.0.mixer.m.attn.attention_bias_idxs": torch.zeros(1)}, SOURCES[source])
    assert not back.unknown
    assert list(back.dropped) == ["blocks1.0.mixer.m.attn.attention_bias_idxs"]
    assert sorted(back.tensors) == sorted(state)
    assert all(torch.equal(back.tensors[k], state[k]) for k in state)
    if source == "timm":
        pytest.importorskip("timm")
        assert set(theirs) == set(msra_timm((224, 224)).theirs.state_dict())
    else:
        assert {
            "patch_embed.0.c.weight", "patch_embed.6.bn.running_mean", "blocks1.0.dw0.m.c.weight",
            "blocks1.0.ffn1.m.pw2.bn.bias",
            "blocks1.0.mixer.m.attn.qkvs.1.c.weight", "blocks1.0.mixer.m.attn.dws.1.bn.weight",
            "blocks1.0.mixer.m.attn.proj.1.c.weight",
            "blocks1.0.mixer.m.attn.attention_biases", "blocks2.0.0.m.c.weight", "blocks2.0.1.m.pw1.bn.weight",
            "blocks2.1.conv3.c.weight",
            "blocks2.1.se.fc2.bias", "blocks2.2.1.m.pw2.c.weight", "blocks2.4.dw1.m.bn.num_batches_tracked",
            "blocks3.3.dw0.m.c.weight",
            "head.bn.running_var", "head.l.weight", "head_dist.bn.weight", "head_dist.l.bias",
        } <= set(theirs)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "millions"), [("m0", 2.35), ("m1", 2.98), ("m2", 4.19), ("m3", 6.90), ("m4", 8.80), ("m5", 12.47)]
)
def test_parameter_counts_are_the_published(name, millions):
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        ours, theirs = (
            vitrail.create(f"efficientvit_msra/{name}", classes=1000),
            timm.create_model(f"efficientvit_{name}"),
        )
    assert count(ours) == count(theirs)
    assert abs(count(ours) / 1e6 - millions) < 0.005


@pytest.mark.parametrize(
    ("name", "macs"), the_first([("m0", 79), ("m1", 167), ("m2", 201), ("m3", 263), ("m4", 299), ("m5", 522)])
)
def test_multiply_adds_are_the_published(name, macs):
    """In millions, as the authors give them."""
    with torch.device("meta"):
        model = vitrail.create(f"efficientvit_msra/{name}", classes=1000)
    assert abs(vitrail.cost(model, 224).macs / 1e6 / macs - 1) < 0.005


@pytest.mark.parametrize("size", [(224, 224), (64, 100), (17, 250), (1, 1)])
def test_takes_any_size(size):
    model = build(TINY).eval()
    features = model(torch.randn(2, 3, *size))
    assert isinstance(model, Backbone)
    for m, width, stride in zip(features.maps, model.map_widths, model.strides, strict=True):
        assert m.shape == (2, width, -(-size[0] // stride), -(-size[1] // stride))
    assert features.summaries[0].shape == (2, 36)


def test_windows_shrink_to_the_map_they_are_made_for():
    def windows(**keys):
        return [stage.blocks[0].mixer.m.attn.window for stage in build(dataclasses.replace(TINY, **keys)).stages]

    assert windows() == [7, 7, 4]
    assert windows(size=(448, 448)) == [7, 7, 7]
    assert windows(size=(100, 300)) == [7, 4, 2]
    assert windows(window=5) == [5, 5, 4]


def test_distances_are_told_apart_down_and_across_but_not_by_sign():
    index = distances(3).view(3, 3, 3, 3)
    assert index[0, 0].tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert index[2, 1, 0, 2] == index[0, 1, 2, 0] == 2 * 3 + 1


def test_blocks_are_in_order_of_depth():
    model = build(TINY)
    order = []
    for i, block in enumerate(model.blocks):
        block.register_forward_hook(lambda m, args, out, i=i: order.append(i))
    model(torch.randn(2, 3, 64, 64))
    assert order == list(range(1 + (1 + 2) + (1 + 1)))


def test_every_parameter_learns():
    model = stir(build(dataclasses.replace(TINY, summaries=2)), norms=0.3)
    features = model(torch.randn(2, 3, 224, 224))
    sum(f.square().sum() for f in (*features.summaries, *features.maps)).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("extra", [
    {"channels": 5}, {"summaries": 2}, {"window": 3}, {"mlp_ratio": 1.5}, {"key_width": 4}, {"drop_path": 0.5},
    {"dropout": 0.1},
])  # fmt: skip
def test_every_option_runs_trains_and_comes_back(extra):
    config = dataclasses.replace(TINY, **extra)
    model = stir(build(config), norms=0.3)
    x = torch.randn(3, config.channels, 96, 128)
    features = model.train()(x)
    assert len(features.summaries) == len(model.summary_widths) == config.summaries
    sum(s.square().sum() for s in features.summaries).backward()
    assert all(p.grad is not None for p in model.parameters())
    again = build(config)
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again.eval()(x).summaries, model.eval()(x).summaries)
    torch.testing.assert_close(model(x[:1]).summaries[0], model(x).summaries[0][:1], rtol=1e-4, atol=1e-5)


def test_dropout_and_drop_path_act_in_training_only():
    x = torch.randn(4, 3, 64, 64)
    for config in (dataclasses.replace(TINY, drop_path=0.9), dataclasses.replace(TINY, dropout=0.5)):
        model = stir(build(config), norms=0.3)
        assert not torch.equal(model.train()(x).summaries[0], model(x).summaries[0])
        assert torch.equal(model.eval()(x).summaries[0], model(x).summaries[0])


def test_every_head_can_be_looked_at():
    """Heads are attentions of their own; the weights of each, applied to its values, are what it hands to the next."""
    model = stir(build(TINY), norms=0.3)
    seen = {}

    def look(name):
        def hook(module, args, out):
            w = module.weights(*args)
            torch.testing.assert_close(w.sum(-1), torch.ones_like(w[..., 0]))
            torch.testing.assert_close(out, (w @ module.project(*args).values)[:, 0], rtol=1e-4, atol=1e-5)
            seen[name] = tuple(w.shape)

        return hook

    for name, module in named_attentions(model).items():
        module.register_forward_hook(look(name))
    model(torch.randn(2, 3, 224, 128))
    assert len(seen) == 1 * 2 + 2 * 3 + 1 * 4
    assert seen["stages.0.blocks.0.mixer.m.attn.cascade.1"] == (2 * 2 * 2, 1, 49, 49)  # a map of 14x8 in windows of 7x7
    assert seen["stages.2.blocks.0.mixer.m.attn.cascade.3"] == (2 * 1 * 1, 1, 16, 16)


def test_each_head_hears_the_one_before_it():
    cascade = stir(build(TINY), norms=0.3).stages[2].blocks[0].mixer.m.attn
    heard = []
    for head in cascade.cascade:
        head.register_forward_hook(lambda m, args, out: heard.append((args[0], out)))
    x = torch.randn(2, 36, 4, 4)
    cascade(x, TokenLayout((4, 4), (64, 64)))
    for share, (seen, _), (_, before) in zip(x.chunk(4, dim=1)[1:], heard[1:], heard, strict=False):
        torch.testing.assert_close(seen, share + before.mT.unflatten(2, (4, 4)))


def test_residual_branches_start_as_nothing():
    block = build(TINY).blocks[0].eval()
    x = torch.randn(2, 16, 14, 14)
    torch.testing.assert_close(block(x), x)


@pytest.mark.parametrize(("keys", "said"), [
    ({"heads": (3, 3, 4)}, r"nearest widths that work: \[15, 18\]"), ({"kernels": (3, 3)}, "heads need 3 kernels"),
    ({"kernels": (4, 3, 3, 3)}, "3 and 5"), ({"widths": (6, 24, 36)}, "at least 8"),
])  # fmt: skip
def test_says_what_cannot_be(keys, said):
    with pytest.raises(UsageError, match=said):
        build(dataclasses.replace(TINY, **keys))


def test_every_variant_can_be_built():
    for name, config in VARIANTS.items():
        with torch.device("meta"):
            model = vitrail.backbone(f"efficientvit_msra/{name}")
        assert model.config == config
        assert len(model.blocks) == sum(config.depths) + 2
