"""The ViT has the gradients, sizes and cost of the paper's, and its options do what they say. Its numbers:
`test_parity.py`."""

import dataclasses

import pytest
import torch
from oracles import count, relative_error, vit_timm
from quick import the_first

import vitrail
from vitrail.contracts import Backbone
from vitrail.errors import UsageError
from vitrail.layers.attention import Attention, merge_heads, named_attentions
from vitrail.layers.position import Learned
from vitrail.models.vit import VARIANTS, Config, build
from vitrail.types import Features, TokenLayout

TINY = Config(width=32, depth=2, heads=4, patch=8, size=(32, 32))
POSITIONS = [
    "none",
    "learned",
    "sincos1d",
    "sincos2d",
    "sincos2d_bv",
    "sincos2d_sum",
    "factorised",
    "relative",
    "relative_log",
    "rope",
    "rope_half",
    "learned_rope",
]


def test_gradients_equal_timms():
    pytest.importorskip("timm")
    made = vit_timm()
    x = torch.randn(3, 3, 32, 32)
    for model in (made.ours, made.theirs):
        model(x).square().sum().backward()
    for name, other in (
        ("blocks.1.attn.qkv.weight",) * 2,
        ("patch_embed.proj.weight",) * 2,
        ("blocks.0.mlp.fc1.bias",) * 2,
    ):
        a, b = made.ours.get_parameter(f"backbone.{name}").grad, made.theirs.get_parameter(other).grad
        assert relative_error(a, b) < 1e-5


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("vit/tiny", 5_717_416),
        ("vit/small", 22_050_664),
        ("vit/base", 86_567_656),
        ("vit/large", 304_326_632),
        ("vit/huge", 632_045_800),
    ],
)
def test_parameter_counts_are_the_published(name, wanted):
    with torch.device("meta"):
        model = vitrail.create(name, classes=1000)
    assert count(model) == wanted


@pytest.mark.parametrize(("name", "millions"), [("vit/giant", 1012.6), ("vit/gigantic", 1844.4)])
def test_parameter_counts_of_the_giants(name, millions):
    with torch.device("meta"):
        model = vitrail.create(name, classes=1000)
    assert abs(count(model) / 1e6 - millions) < 0.05


@pytest.mark.parametrize(
    ("name", "gmacs"),
    the_first(
        [("vit/tiny", 1.26), ("vit/small", 4.61), ("vit/base", 17.58), ("vit/large", 61.60), ("vit/huge", 167.3)]
    ),
)
def test_multiply_adds_are_the_published(name, gmacs):
    with torch.device("meta"):
        model = vitrail.create(name, classes=1000)
    assert abs(vitrail.cost(model).macs / 1e9 / gmacs - 1) < 0.006


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("size", [(32, 32), (40, 24), (30, 50)])
def test_every_position_takes_every_size(position, size):
    model = build(dataclasses.replace(TINY, position=position, registers=2)).eval()
    features = model(torch.randn(2, 3, *size))
    assert features.maps[0].shape == (2, 32, -(-size[0] // 8), -(-size[1] // 8))
    assert features.summaries[0].shape == (2, 32)


@pytest.mark.parametrize("position", POSITIONS)
def test_every_parameter_learns_and_positions_matter(position):
    torch.manual_seed(1)
    model = build(dataclasses.replace(TINY, position=position, qk_norm=True, layer_scale=0.1, registers=1))
    for block in model.blocks:
        if block.attn.relative is not None:
            for p in block.attn.relative.parameters():
                torch.nn.init.normal_(p)  # starts too small to be seen
    x = torch.randn(2, 3, 32, 32)
    features = model(x)
    (features.summaries[0].square().sum() + features.maps[0].square().mean()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or (p.numel() and not p.grad.any())] == []
    turned = model(x.roll(8, 3)).summaries[0]  # the same patches in other places
    same = torch.allclose(turned, features.summaries[0], atol=1e-5)
    assert same == (position == "none")


@pytest.mark.parametrize(("tokens", "summaries"), [(0, 1), (1, 1), (2, 2)])
def test_tokens_are_mean_class_and_teacher(tokens, summaries):
    config = dataclasses.replace(TINY, tokens=tokens)
    model = build(config)
    features = model(torch.randn(2, 3, 32, 32))
    assert isinstance(features, Features)
    assert isinstance(model, Backbone)
    assert len(features.summaries) == len(model.summary_widths) == summaries
    assert len(model.position.table) == tokens + 16
    if tokens == 0:
        torch.testing.assert_close(features.summaries[0], features.maps[0].mean((2, 3)))
    logits = vitrail.create("vit/tiny", classes=7, width=32, depth=1, heads=4, patch=8, size=32, tokens=tokens)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(logits(x), logits.forward_all(x).mean(1))


def test_rows_for_tokens_can_be_left_out():
    model = build(dataclasses.replace(TINY, position_tokens=False))
    assert isinstance(model.position, Learned)
    assert len(model.position.table) == 16


@pytest.mark.parametrize("extra", [
    {"mlp": "swiglu"}, {"norm": "rms"}, {"norm_at": "post"}, {"norm_at": "none"}, {"residual": False}, {"gelu": "tanh"},
    {"stem": "conv"}, {"pre_logits": 16}, {"pre_logits": 16, "pre_logits_act": "relu"}, {"position_join": "concat"},
    {"position_init": "xavier"}, {"init": "jax"}, {"patch": (8, 4)}, {"channels": 5}, {"qkv_bias": False},
    {"drop_path": 0.5},
    {"dropout": 0.1, "attention_dropout": 0.1}, {"drop_path": 0.2, "drop_path_schedule": "constant"},
])  # fmt: skip
def test_every_option_runs_trains_and_comes_back(extra):
    config = dataclasses.replace(TINY, **extra)
    model = build(config)
    x = torch.randn(2, config.channels, 32, 32)
    features = model.train()(x)
    (features.summaries[0].square().sum() + features.maps[0].square().mean()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.numel())
    again = build(config)
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again.eval()(x).summaries[0], model.eval()(x).summaries[0])
    torch.testing.assert_close(model(x[:1]).summaries[0], model(x).summaries[0][:1], rtol=1e-4, atol=1e-5)


def test_rectangular_patches_have_a_rectangular_grid():
    model = build(dataclasses.replace(TINY, patch=(8, 4)))
    assert model(torch.randn(1, 3, 32, 32)).maps[0].shape == (1, 32, 4, 8)


def test_pre_logits_is_dense_tanh():
    model = build(dataclasses.replace(TINY, pre_logits=16)).eval()
    plain = build(TINY).eval()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("pre_logits")})
    x = torch.randn(2, 3, 32, 32)
    dense = model.pre_logits[0]
    torch.testing.assert_close(model(x).summaries[0], torch.tanh(dense(plain(x).summaries[0])))
    assert model.summary_widths == (16,)


def test_dropout_and_drop_path_act_in_training_only():
    model = build(dataclasses.replace(TINY, drop_path=0.9, dropout=0.5, drop_path_schedule="constant"))
    x = torch.randn(4, 3, 32, 32)
    assert not torch.equal(model.train()(x).summaries[0], model(x).summaries[0])
    assert torch.equal(model.eval()(x).summaries[0], model(x).summaries[0])
    assert [b.drop_path.drop_prob for b in build(dataclasses.replace(TINY, depth=3, drop_path=0.4)).blocks] == [
        0.0,
        0.2,
        0.4,
    ]


@pytest.mark.parametrize("position", ["learned", "relative", "rope"])
def test_weights_are_what_forward_uses(position):
    model = build(dataclasses.replace(TINY, position=position, qk_norm=True)).eval()
    seen = {}

    def look(name):
        def hook(module, args, out):
            w = module.weights(*args)
            torch.testing.assert_close(w.sum(-1), torch.ones_like(w[..., 0]))
            values = module.project(*args).values
            torch.testing.assert_close(out, module.proj(merge_heads(w @ values)), rtol=1e-4, atol=1e-5)
            seen[name] = w.shape

        return hook

    for name, module in named_attentions(model).items():
        module.register_forward_hook(look(name))
    model(torch.randn(2, 3, 32, 40))
    assert set(seen.values()) == {(2, 4, 21, 21)}
    assert len(seen) == 2
    assert all(isinstance(m, Attention) for m in named_attentions(model).values())


def test_pre_norm_post_norm_and_none_are_the_three_plans():
    x = torch.randn(2, 16, 32)
    for norm_at in ("pre", "post", "none"):
        block = build(dataclasses.replace(TINY, norm_at=norm_at)).blocks[0].eval()
        layout = TokenLayout((4, 4), (8, 8))
        if norm_at == "pre":
            y = x + block.attn(block.norm1(x), layout)
            wanted = y + block.mlp(block.norm2(y))
        elif norm_at == "post":
            y = block.norm1(x + block.attn(x, layout))
            wanted = block.norm2(y + block.mlp(y))
        else:
            y = x + block.attn(x, layout)
            wanted = y + block.mlp(y)
        torch.testing.assert_close(block(x, layout), wanted)


def test_initialisation_is_the_stated_one():
    model = build(dataclasses.replace(TINY, width=256, heads=4))
    assert abs(float(model.blocks[0].attn.qkv.weight.detach().std()) - 0.02) < 0.002
    assert not model.blocks[0].mlp.fc1.bias.any()
    jax = build(dataclasses.replace(TINY, width=256, heads=4, init="jax"))
    bound = (6 / (256 + 1024)) ** 0.5
    assert 0.9 * bound < float(jax.blocks[0].mlp.fc1.weight.detach().abs().max()) <= bound
    assert float(jax.blocks[0].mlp.fc1.bias.detach().abs().max()) < 1e-5


@pytest.mark.slow
def test_compiled_blocks_agree_with_eager():
    model = build(TINY).eval()
    x = torch.randn(2, 3, 32, 32)
    plain = model(x).summaries[0]
    for block in model.blocks:
        block.compile()
    torch.testing.assert_close(model(x).summaries[0], plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("keys", "said"), [
    ({"heads": 5}, "is not divisible"), ({"stem": "conv", "patch": 7}, "power of two"),
    ({"position": "relative", "position_join": "concat"}, "not a table"),
])  # fmt: skip
def test_says_what_cannot_be(keys, said):
    with pytest.raises(UsageError, match=said):
        build(dataclasses.replace(TINY, **keys))


def test_every_variant_can_be_built():
    for name in VARIANTS:
        with torch.device("meta"):
            model = vitrail.backbone(f"vit/{name}")
        assert len(model.blocks) == VARIANTS[name].depth


@pytest.mark.parametrize(("name", "count"), [("pico", 212_040), ("micro", 744_800)])
def test_the_small_ones_have_a_pyramid_for_a_stem(name, count):
    """Its grid is that of the patches whatever the size, and BatchNorm's statistics are those of its images."""
    model = vitrail.backbone(f"vit/{name}", channels=1)
    assert sum(p.numel() for p in model.parameters()) == count
    model.train()
    with torch.no_grad():
        for height, width in ((28, 28), (33, 50), (8, 9)):
            features = model(torch.randn(2, 1, height, width))
            assert features.maps[-1].shape == (2, model.config.width, -(-height // 8), -(-width // 8))
    assert int(model.patch_embed.norm.num_batches_tracked) == 3
