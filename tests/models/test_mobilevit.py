"""MobileViT is that of timm and transformers, number for number, at sizes that patches divide and at sizes that they do not."""

import dataclasses

import pytest
import torch

import vitrail
from vitrail.layers.attention import attentions, merge_heads
from vitrail.models.mobilevit import Config, build, fold, resize, unfold
from vitrail.types import Backbone
from vitrail.weights.rules import convert, revert
from vitrail.weights.tables.mobilevit import SOURCES

TINY = Config(stem_width=8, widths=(8, 16, 16, 24, 32), expand=2.0, token_widths=(16, 24, 32), summary_width=40, size=(64, 64))


def relative_error(a, b):
    return float((a - b).norm() / b.norm())


def stir(model):
    """Nothing at zero or one, buffers as if it had been trained, and signals that reach the end."""
    for p in model.parameters():
        p.data += 0.1 * torch.randn_like(p)
    for m in model.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(m.weight, 0.5, 1.5)
            m.running_mean.normal_(std=0.1)
            m.running_var.uniform_(0.5, 1.5)
        elif isinstance(m, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(m.weight)
    return model


def timm_model():
    pytest.importorskip("timm")
    from timm.models import byobnet, mobilevit

    blocks = [mobilevit._inverted_residual_block(d=d, c=c, s=s, br=2.0) for d, c, s in ((1, 8, 1), (3, 16, 2))]
    blocks += [
        mobilevit._mobilevit_block(d=1, c=c, s=2, transformer_dim=t, transformer_depth=n, patch_size=2, br=2.0)
        for c, t, n in ((16, 16, 2), (24, 24, 4), (32, 32, 3))
    ]
    config = byobnet.ByoModelCfg(
        blocks=tuple(blocks), stem_chs=8, stem_type="3x3", stem_pool="", downsample="", act_layer="silu", num_features=40
    )
    return byobnet.ByobNet(config, num_classes=5)


def transformers_model():
    transformers = pytest.importorskip("transformers")
    config = transformers.MobileViTConfig(
        hidden_sizes=[16, 24, 32], neck_hidden_sizes=[8, 8, 16, 16, 24, 32, 40], expand_ratio=2.0, num_labels=5, image_size=64
    )
    return transformers.MobileViTForImageClassification(config)


ORACLES = {"timm": timm_model, "transformers": transformers_model}


def seen(source, x):
    """Pictures as a source takes them: transformers' MobileViT sees blue first."""
    return x.flip(1) if source == "transformers" else x


def logits(out):
    return getattr(out, "logits", out)


def count(model, tensors=False):
    return sum(1 if tensors else p.numel() for p in model.parameters())


def without_dropout(model):
    for m in model.modules():
        if isinstance(m, torch.nn.Dropout):
            m.p = 0.0
    return model


def loaded(model, tensors):
    model.load_state_dict({name if name.startswith("heads.") else f"backbone.{name}": t for name, t in tensors.items()})
    return model.eval()


def ours_like(**keys):
    return vitrail.create("mobilevit/s", classes=5, **{**dataclasses.asdict(TINY), **keys})


@pytest.mark.parametrize("source", ORACLES)
def test_equals_the_libraries_of_the_field(source):
    theirs = stir(ORACLES[source]()).eval()
    made = convert(theirs.state_dict(), SOURCES[source])
    assert not made.unknown
    ours = loaded(ours_like(), made.tensors)
    for size in ((64, 64), (96, 40), (70, 50)):  # odd maps on the way: 12x5, 6x3, 3x2 and 9x7, 5x4, 3x2
        x = torch.rand(2, 3, *size)
        with torch.no_grad():
            mine, wanted = ours(x), logits(theirs(seen(source, x)))
        assert relative_error(mine, wanted) < 1e-5
        assert relative_error(mine[:1], mine[1:]) > 1e-2, "the pictures matter, so the comparison says something"


@pytest.mark.parametrize("source", ORACLES)
def test_gradients_and_running_means_equal_theirs(source):
    theirs = without_dropout(stir(ORACLES[source]()))
    ours = loaded(ours_like(), convert(theirs.state_dict(), SOURCES[source]).tensors)
    x = torch.rand(2, 3, 70, 50)
    ours.train()(x).square().sum().backward()
    logits(theirs.train()(seen(source, x))).square().sum().backward()
    wanted = convert({name: p.grad for name, p in theirs.named_parameters()}, SOURCES[source]).tensors
    for name in ("stem.conv.weight", "stages.1.0.conv2_kxk.bn.weight", "stages.2.1.transformer.0.attn.qkv.weight",
                 "stages.4.1.conv_1x1.weight"):  # fmt: skip
        assert relative_error(ours.get_parameter(f"backbone.{name}").grad, wanted[name]) < 1e-4
    buffers = convert(dict(theirs.named_buffers()), SOURCES[source]).tensors
    torch.testing.assert_close(dict(ours.backbone.named_buffers()), buffers)


@pytest.mark.parametrize("source", ORACLES)
def test_names_go_there_and_back(source):
    theirs = ORACLES[source]().state_dict()
    back = revert(convert(theirs, SOURCES[source]).tensors, SOURCES[source])
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[name], theirs[name]) for name in theirs)


def test_names_of_the_original_go_both_ways():
    """No package holds the original, so ours are written in its names and read again; a few names are known from its code."""
    state = build(TINY).state_dict()
    theirs = revert({**state, "heads.0.weight": torch.rand(5, 40), "heads.0.bias": torch.rand(5)}, SOURCES["original"])
    for name, shape in {
        "conv_1.block.conv.weight": (8, 3, 3, 3), "layer_2.2.block.exp_1x1.block.conv.weight": (32, 16, 1, 1),
        "layer_3.0.block.red_1x1.block.norm.bias": (16,), "layer_3.1.local_rep.conv_3x3.block.norm.running_var": (16,),
        "layer_3.1.local_rep.conv_1x1.block.conv.weight": (16, 16, 1, 1), "layer_4.1.global_rep.3.pre_norm_ffn.4.bias": (24,),
        "layer_4.1.global_rep.4.weight": (24,), "layer_5.1.global_rep.2.pre_norm_mha.1.qkv_proj.weight": (96, 32),
        "layer_5.1.fusion.block.conv.weight": (32, 64, 3, 3), "conv_1x1_exp.block.norm.weight": (40,), "classifier.fc.weight": (5, 40),
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
            (2, width, -(-size[0] // stride), -(-size[1] // stride)) for width, stride in zip(model.map_widths, model.strides, strict=True)
        ]
        assert [s.shape for s in features.summaries] == [(2, width) for width in model.summary_widths]


def test_every_parameter_learns_and_belongs_to_one_block():
    model = build(dataclasses.replace(TINY, channels=4))
    features = model(torch.rand(2, 4, 64, 64))
    (features.summaries[0].square().sum() + sum(m.square().mean() for m in features.maps)).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    inside = [id(p) for block in model.blocks for p in block.parameters()]
    assert len(inside) == len(set(inside)) == count(model, tensors=True) - 3 - 3  # all but the stem's and the last convolution's


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
        torch.testing.assert_close(out, module.proj(merge_heads(w @ module.project(*args).values)), rtol=1e-4, atol=1e-5)
        seen[w.shape] = seen.get(w.shape, 0) + 1

    for module in attentions(model).values():
        module.register_forward_hook(hook)
    model(torch.rand(2, 3, 96, 64))
    assert seen == {(8, 4, 24, 24): 2, (8, 4, 6, 6): 4, (8, 4, 2, 2): 3}  # four sequences an image


@pytest.mark.parametrize("extra", [
    {"dropout": 0.5}, {"attention_dropout": 0.5}, {"drop_path": 0.9}, {"expand": 4.0}, {"heads": 2}, {"mlp_ratio": 3.0}, {"patch": 4},
    {"depths": (1, 0, 2)}, {"convs": (2, 1)}, {"summary_width": 24},
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


def test_exports_for_any_number_of_pictures():
    model = build(TINY).eval()
    program = torch.export.export(model, (torch.rand(2, 3, 70, 50),), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},))
    x = torch.rand(3, 3, 70, 50)
    torch.testing.assert_close(program.module()(x).summaries[0], model(x).summaries[0])
