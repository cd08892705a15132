"""Swin: gradients, sizes, the shift and its mask, other windows; weights on disk and alive. Its numbers:
`test_parity.py`."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from oracles import SWIN as TINY
from oracles import SWIN_SHAPE, count, relative_error, stir, swin_torchvision, swin_transformers
from quick import the_first
from safetensors.torch import load_file

import vitrail
from vitrail.contracts import Backbone
from vitrail.errors import UsageError
from vitrail.layers.attention import merge_heads, named_attentions
from vitrail.layers.windows import APART, Windows, attend_windows, merge_windows, partition_windows, shift_mask
from vitrail.models.swin import VARIANTS, Config, build, refit, windows
from vitrail.types import Features, TokenLayout
from vitrail.weights.rules import convert, revert
from vitrail.weights.tables.swin import SOURCES

timm = pytest.importorskip("timm")
PUBLISHED = {  # parameters in millions, multiply-adds in billions at the model's own size; name in timm
    "tiny":      (28.29, 4.51, "swin_tiny_patch4_window7_224"),
    "small":     (49.61, 8.77, "swin_small_patch4_window7_224"),
    "base":      (87.77, 15.47, "swin_base_patch4_window7_224"),
    "large":     (196.53, 34.53, "swin_large_patch4_window7_224"),
    "base_384":  (87.90, 47.19, "swin_base_patch4_window12_384"),
    "large_384": (196.74, 104.08, "swin_large_patch4_window12_384"),
}  # fmt: skip


@pytest.mark.parametrize("size", [(128, 128), (100, 72)])
def test_gradients_equal_those_of_torchvision(size):
    made = swin_torchvision()
    ours, theirs = made.ours, made.theirs
    x = torch.randn(2, 3, *size)
    for model in (ours, theirs):
        model(x).square().sum().backward()
    pairs = {"layers.0.blocks.1.attn.qkv.weight": "features.1.1.attn.qkv.weight",
             "patch_embed.proj.weight": "features.0.0.weight",
             "layers.0.blocks.1.attn.relative.table": "features.1.1.attn.relative_position_bias_table",
             "layers.2.downsample.reduction.weight": "features.4.reduction.weight"}  # fmt: skip
    for mine, other in pairs.items():
        assert relative_error(ours.backbone.get_parameter(mine).grad, theirs.get_parameter(other).grad) < 1e-5


def test_weights_of_transformers_on_disk_and_alive(tmp_path):
    pytest.importorskip("transformers")
    model = swin_transformers().theirs
    model.save_pretrained(tmp_path)
    disk = load_file(tmp_path / "model.safetensors")
    stored, alive = (convert(t, SOURCES["transformers"]) for t in (disk, model.state_dict()))
    assert stored.unknown == alive.unknown == []
    assert stored.tensors.keys() == alive.tensors.keys()
    assert all(torch.equal(stored.tensors[k], alive.tensors[k]) for k in alive.tensors)
    back = revert(alive.tensors, SOURCES["transformers"])
    assert back.keys() == disk.keys()
    assert all(torch.equal(back[k], disk[k]) for k in disk)


def test_the_original_merges_one_stage_earlier_and_holds_buffers():
    ours = build(TINY).state_dict()
    made = revert({**ours, "heads.0.weight": torch.zeros(5, 128)}, SOURCES["original"])
    assert {"layers.0.downsample.reduction.weight", "layers.2.downsample.norm.bias", "patch_embed.norm.weight",
            "head.weight",
            "layers.0.blocks.0.attn.relative_position_bias_table", "norm.bias"} <= made.keys()  # fmt: skip
    assert not [k for k in made if k.startswith("layers.3.downsample")]
    again = convert({**made, "layers.0.blocks.1.attn_mask": torch.zeros(1),
                     "layers.0.blocks.1.attn.relative_position_index": torch.zeros(1)},
                    SOURCES["original"])  # fmt: skip
    assert again.unknown == []
    assert set(again.dropped) == {"layers.0.blocks.1.attn_mask", "layers.0.blocks.1.attn.relative_position_index"}
    assert all(torch.equal(again.tensors[k], ours[k]) for k in ours)


@pytest.mark.parametrize("name", the_first(VARIANTS))
def test_parameters_and_multiply_adds_are_the_published(name):
    millions, billions, other = PUBLISHED[name]
    with torch.device("meta"):
        ours, theirs = vitrail.create(f"swin/{name}", classes=1000), timm.create_model(other, num_classes=1000)
    assert count(ours) == count(theirs)
    assert abs(count(ours) / 1e6 - millions) < 0.006
    if name in ("tiny", "small", "base_384"):  # counting takes a while, and the others differ in width alone
        assert abs(vitrail.cost(ours).macs / 1e9 / billions - 1) < 0.005


@pytest.mark.parametrize("size", [(128, 128), (1, 1), (30, 50), (65, 131), (96, 32)])
def test_every_size_gives_four_maps_and_their_mean(size):
    model = build(TINY).eval()
    features = model(torch.randn(2, 3, *size))
    assert isinstance(features, Features)
    assert isinstance(model, Backbone)
    assert model.strides == (4, 8, 16, 32)
    assert model.map_widths == (16, 32, 64, 128)
    assert model.summary_widths == (128,)
    for m, width, stride in zip(features.maps, model.map_widths, model.strides, strict=True):
        assert m.shape == (2, width, -(-size[0] // stride), -(-size[1] // stride))
    torch.testing.assert_close(features.summaries[0], features.maps[-1].mean((2, 3)))
    assert len(model.blocks) == sum(TINY.depths)


def test_every_parameter_learns_and_places_matter():
    model = build(TINY)
    x = torch.randn(2, 3, 128, 128)
    model(x).summaries[0].square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    model.eval()
    assert not torch.allclose(model(x.flip(3)).summaries[0], model(x).summaries[0], atol=1e-3)


@pytest.mark.parametrize("extra", [
    {"channels": 5}, {"patch": 2}, {"mlp_ratio": 2.5}, {"qkv_bias": False}, {"drop_path": 0.5}, {"dropout": 0.2},
    {"attention_dropout": 0.2}, {"window": 3}, {"eps": 1e-2}, {"depths": (1, 1, 1, 1)}, {"size": (96, 192)},
])  # fmt: skip
def test_every_option_acts_and_comes_back(extra):
    config = dataclasses.replace(TINY, **extra)
    torch.manual_seed(0)
    model = build(config)
    x = torch.randn(3, config.channels, 64, 64)
    (key,) = extra
    if key in ("drop_path", "dropout", "attention_dropout"):
        assert not torch.equal(model.train()(x).summaries[0], model(x).summaries[0])
    else:
        theirs = {n: p.shape for n, p in build(TINY).named_parameters()}
        assert key in ("eps", "size") or {n: p.shape for n, p in model.named_parameters()} != theirs
    again = build(config).eval()
    again.load_state_dict(model.eval().state_dict())
    torch.testing.assert_close(again(x).summaries[0], model(x).summaries[0])
    torch.testing.assert_close(model(x[:1]).summaries[0], model(x).summaries[0][:1], rtol=1e-4, atol=1e-5)


def test_drop_path_rises_over_the_blocks_of_all_stages():
    rates = [b.drop_path.drop_prob for b in build(dataclasses.replace(TINY, drop_path=0.3)).blocks]
    assert rates == pytest.approx([0.05 * i for i in range(7)])


def test_windows_shrink_to_the_map_and_blocks_shift_by_turns():
    model = build(Config(**{**SWIN_SHAPE, "window": 5}, size=(64, 256)))
    assert windows(model.config) == [(5, 5), (5, 5), (4, 5), (2, 5)]
    assert [b.windows.shift for b in model.layers[0].blocks] == [(0, 0), (2, 2)]
    assert [b.windows.shift for b in model.layers[3].blocks] == [(0, 0), (1, 2)]
    assert model.blocks[-1].attn.relative.table.shape == (3 * 9, 4)


@pytest.mark.parametrize(
    ("grid", "window", "shift"), [((8, 12), (4, 4), (2, 2)), ((6, 4), (3, 4), (1, 0)), ((5, 10), (5, 2), (0, 1))]
)
def test_the_mask_parts_what_was_not_together_before_the_shift(grid, window, shift):
    here = torch.arange(grid[0] * grid[1]).view(1, *grid, 1)
    torch.testing.assert_close(merge_windows(partition_windows(here, window), window, grid), here)
    moved = partition_windows(here.roll((-shift[0], -shift[1]), (1, 2)), window).squeeze(-1)
    y, x = moved // grid[1], moved % grid[1]  # where a place was
    near = ((y[:, :, None] - y[:, None]).abs() < window[0]) & ((x[:, :, None] - x[:, None]).abs() < window[1])
    mask = shift_mask(grid, window, shift, torch.zeros(1))
    torch.testing.assert_close(mask, torch.where(near, 0.0, APART))


def test_a_window_over_the_whole_map_is_not_shifted():
    block = build(TINY).blocks[-1].eval()
    x = torch.randn(2, 4, 4, 128)
    assert block.windows == Windows((4, 4), (2, 2))
    layout = TokenLayout((4, 4), (32, 32))
    torch.testing.assert_close(
        attend_windows(block.attn, x, layout, block.windows), attend_windows(block.attn, x, layout, Windows((4, 4)))
    )


def test_tables_go_to_other_windows_as_the_original_resamples_them():
    old, new = dataclasses.replace(TINY, size=(96, 96)), dataclasses.replace(TINY, window=6, size=(192, 192))
    weights = stir(build(old)).state_dict()
    fitted = refit(weights, old, new)
    build(new).load_state_dict(fitted)
    name = "layers.3.blocks.1.attn.relative.table"  # from 3x3, the whole map, to 6x6
    plane = F.interpolate(weights[name].T.view(1, 4, 5, 5), size=(11, 11), mode="bicubic")
    torch.testing.assert_close(fitted[name], plane.view(4, 121).T)
    assert all(torch.equal(fitted[k], v) for k, v in weights.items() if "relative" not in k)
    assert refit(weights, old, old).keys() == weights.keys()


def test_weights_are_what_forward_uses():
    model, seen = stir(build(TINY)), []

    def look(module, args, out):
        w = module.weights(*args)
        torch.testing.assert_close(w.sum(-1), torch.ones_like(w[..., 0]))
        torch.testing.assert_close(
            out, module.proj(merge_heads(w @ module.project(*args).values)), rtol=1e-4, atol=1e-5
        )
        seen.append(w.shape)

    for module in named_attentions(model).values():
        module.register_forward_hook(look)
    with torch.no_grad():
        model(torch.randn(2, 3, 64, 100))
    assert seen[:2] == [(2 * 4 * 7, 2, 16, 16)] * 2
    assert len(seen) == 7


def test_initialisation_is_the_published():
    model = build(dataclasses.replace(TINY, width=64))
    assert abs(float(model.layers[2].blocks[0].mlp.fc1.weight.detach().std()) - 0.02) < 0.001
    assert abs(float(model.blocks[0].attn.relative.table.detach().std()) - 0.02) < 0.006
    assert not any(m.bias.any() for m in model.modules() if isinstance(m, torch.nn.Linear) and m.bias is not None)
    assert float(model.patch_embed.proj.weight.detach().abs().max()) <= 48**-0.5


@pytest.mark.slow
def test_a_compiled_block_equals_eager():
    torch.compiler.reset()  # a process that has compiled the same code often before leaves it uncompiled
    block = build(TINY).blocks[1].eval()
    x, layout = torch.randn(2, 18, 25, 16), TokenLayout((18, 25), (4, 4))
    with torch.no_grad():
        torch.testing.assert_close(
            torch.compile(block, fullgraph=True)(x, layout), block(x, layout), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close(dtype):
    model = build(TINY).eval()
    x = torch.randn(2, 3, 72, 100)
    with torch.no_grad():
        wanted = model(x).summaries[0]
        assert relative_error(model.to(dtype)(x.to(dtype)).summaries[0].float(), wanted) < 0.05


def test_says_what_cannot_be():
    with pytest.raises(UsageError, match="is not divisible"):
        build(dataclasses.replace(TINY, heads=(3, 3, 3, 3)))
