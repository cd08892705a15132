"""CrossViT: its branches exchange what they should and nothing else; gradients, sizes. Its numbers:
`test_parity.py`."""

import dataclasses

import pytest
import torch
from oracles import CROSSVIT as TINY
from oracles import count, crossvit_timm, relative_error
from quick import the_first
from torch import nn

import vitrail
from vitrail.contracts import Backbone
from vitrail.errors import UsageError
from vitrail.heads.linear import Classifier
from vitrail.layers.attention import merge_heads, named_attentions
from vitrail.models.crossvit import VARIANTS, Config, build, sizes
from vitrail.types import TokenLayout
from vitrail.weights.rules import convert, revert
from vitrail.weights.tables.crossvit import SOURCES

STEMS = ["patch", "conv"]


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("size", [(240, 240), (120, 240)])
def test_gradients_equal_timms(stem, size):
    pytest.importorskip("timm")
    made, x = crossvit_timm(stem, size), torch.randn(2, 3, *size)
    ours, theirs = made.ours, made.theirs
    for model in (ours, theirs):
        model(x).square().sum().backward()
    for name in ("patch_embed.1.proj.weight" if stem == "patch" else "patch_embed.0.proj.2.weight",
                 "blocks.0.projs.0.2.weight",
                 "blocks.0.blocks.1.2.attn.qkv.weight", "blocks.1.fusion.0.attn.wk.weight",
                 "blocks.0.revert_projs.1.0.bias"):  # fmt: skip
        assert relative_error(ours.get_parameter(f"backbone.{name}").grad, theirs.get_parameter(name).grad) < 1e-4
    for i in range(2):
        g = ours.get_parameter(f"backbone.position.{i}.table").grad
        assert relative_error(g, theirs.get_parameter(f"pos_embed_{i}").grad[0]) < 1e-4


def test_an_image_of_another_size_is_resized_first_where_that_is_asked_for():
    model = build(dataclasses.replace(TINY, size=(240, 240), fit=True))
    assert model(torch.randn(2, 3, 200, 100)).maps[0].shape == (2, 16, 20, 20)


def test_names_of_the_original_become_ours():
    state = {k.removeprefix("backbone."): v for k, v in Classifier(build(TINY), 5).state_dict().items()}
    theirs = revert(state, SOURCES["original"])
    assert {"pos_embed.0", "cls_token.1", "patch_embed.1.proj.weight", "blocks.1.fusion.0.attn.wq.bias",
            "norm.1.weight",
            "head.0.weight"} <= theirs.keys()  # fmt: skip
    assert theirs["pos_embed.0"].shape == (1, 201, 16)
    made = convert(theirs, SOURCES["original"])
    assert not made.unknown
    assert made.tensors.keys() == state.keys()


@pytest.mark.parametrize(("name", "millions", "gmacs"), the_first([
    ("tiny", 7.01, 1.57), ("small", 26.86, 5.63), ("base", 105.03, 21.22), ("9", 8.55, 1.85), ("9_dagger", 8.78, 1.99),
    ("15", 27.53, 5.81), ("15_dagger", 28.21, 6.13), ("18", 43.27, 9.05), ("18_dagger", 44.27, 9.50),
    ("15_dagger_384", 28.50, 21.45), ("18_dagger_384", 44.61, 32.47),
]))  # fmt: skip
def test_sizes_are_the_published(name, millions, gmacs):
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        model = vitrail.create(f"crossvit/{name}", classes=1000)
        theirs = timm.create_model(f"crossvit_{name.removesuffix('_384')}_{408 if name.endswith('384') else 240}")
    cost = vitrail.cost(model)
    assert cost.parameters == count(theirs)
    assert round(cost.parameters / 1e6, 2) == millions
    assert abs(cost.macs / 1e9 / gmacs - 1) < 0.006
    assert (
        round((cost.macs + norms(model)) / 1e9, 2) == gmacs
    )  # the published count has five for every element of a LayerNorm


def norms(model):
    extra = []
    for m in model.modules():
        if isinstance(m, nn.LayerNorm):
            m.register_forward_hook(lambda module, args, out: extra.append(5 * out.numel()))
    with torch.no_grad():
        model(torch.empty(1, 3, *model.backbone.config.size, device="meta"))
    return sum(extra)


def test_every_variant_is_listed():
    assert list(VARIANTS) == ["tiny", "small", "base", "9", "15", "18", "9_dagger", "15_dagger", "18_dagger",
                              "15_dagger_384",
                              "18_dagger_384"]  # fmt: skip
    assert sizes(VARIANTS["15_dagger_384"], (408, 408)) == ((408, 408), (384, 384))


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("size", [(120, 240), (240, 120), (100, 75), (15, 20)])
def test_takes_every_size(stem, size):
    model = build(dataclasses.replace(TINY, stem=stem)).eval()
    assert isinstance(model, Backbone)
    features = model(torch.randn(2, 3, *size))
    assert [s.shape for s in features.summaries] == [(2, 16), (2, 32)]
    for made, width, seen, patch in zip(
        features.maps, model.map_widths, sizes(model.config, size), (12, 16), strict=True
    ):
        assert made.shape == (2, width, -(-seen[0] // patch), -(-seen[1] // patch))
    assert model.strides == (12, 17)


@pytest.mark.parametrize("stem", STEMS)
def test_every_parameter_learns(stem):
    model = build(
        dataclasses.replace(
            TINY, stem=stem, size=(60, 60), channels=4, drop_path=0.1, dropout=0.1, attention_dropout=0.1
        )
    )
    features = model.train()(torch.randn(4, 4, 60, 60))
    (sum(s.square().sum() for s in features.summaries) + sum(m.square().mean() for m in features.maps)).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_evaluation_does_not_depend_on_the_batch_and_training_is_random():
    model = build(dataclasses.replace(TINY, drop_path=0.5, dropout=0.2, attention_dropout=0.2))
    x = torch.randn(3, 3, 120, 240)
    assert not torch.equal(model.train()(x).summaries[0], model(x).summaries[0])
    together = model.eval()(x)
    for one, all_ in zip(model(x[1:2]).summaries, together.summaries, strict=True):
        torch.testing.assert_close(one, all_[1:2], rtol=1e-4, atol=1e-5)
    blocks = [[round(b.drop_path.drop_prob, 3) for b in scale.blocks[1]] for scale in model.blocks]
    assert blocks == [[0.0, 0.1, 0.2], [0.3, 0.4, 0.5]]
    assert [[round(b.drop_path.drop_prob, 3) for b in scale.fusion] for scale in model.blocks] == [
        [0.2, 0.2],
        [0.5, 0.5],
    ]
    assert [scale.blocks[0][0].drop_path.drop_prob for scale in model.blocks] == [0.0, pytest.approx(0.3)]


def test_the_exchange_is_parallel_and_leaves_patches_alone():
    scale = build(TINY).blocks[0].eval()
    x, layouts = (
        [torch.randn(2, 13, 16), torch.randn(2, 7, 32)],
        [TokenLayout((3, 4), (12, 12), 1), TokenLayout((2, 3), (16, 16), 1)],
    )
    fine, coarse = scale(x, layouts)
    alone = []
    for tokens, layout, blocks in zip(x, layouts, scale.blocks, strict=True):
        for block in blocks:
            tokens = block(tokens, layout)
        alone.append(tokens)
    torch.testing.assert_close(fine[:, 1:], alone[0][:, 1:])
    torch.testing.assert_close(coarse[:, 1:], alone[1][:, 1:])
    for i, got in enumerate((fine, coarse)):
        token = scale.projs[i](alone[i][:, :1])
        shown = torch.cat([token, alone[1 - i][:, 1:]], dim=1)  # the other's patches, not its class token
        token = token + scale.fusion[i].attn(scale.fusion[i].norm1(shown), layouts[1 - i])
        torch.testing.assert_close(got[:, :1], scale.revert_projs[i](token))


def test_weights_are_what_forward_uses():
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
    model(torch.randn(2, 3, 120, 240))
    assert seen["blocks.0.fusion.0.attn"] == (
        4,
        1,
        99,
    )  # the first branch's token, in the second's width, over its 7 x 14 patches
    assert seen["blocks.0.fusion.1.attn"] == (2, 1, 201)
    assert seen["blocks.1.blocks.1.2.attn"] == (4, 99, 99)
    assert len(seen) == 12


def test_initialisation_is_the_stated_one():
    model = build(Config(stages=1, depths=(1, 1)))
    assert abs(float(model.blocks[0].blocks[1][0].mlp.fc1.weight.detach().std()) - 0.02) < 0.001
    assert abs(float(model.position[0].table.detach().std()) - 0.02) < 0.001
    assert abs(float(model.tokens[1].detach().std()) - 0.02) < 0.004
    assert not any(m.bias.any() for m in model.modules() if isinstance(m, nn.Linear))


def test_says_what_cannot_be():
    with pytest.raises(UsageError, match="12 or 16"):
        build(dataclasses.replace(TINY, stem="conv", patches=(8, 16)))
    with pytest.raises(UsageError, match="is not divisible"):
        build(dataclasses.replace(TINY, heads=(3, 4)))
