"""Every head on every family; UPerNet gives the numbers of transformers, and all have the published number of
parameters."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from oracles import count, relative_error, settle, stir
from quick import every_third
from test_models import SMALL, small
from torch import nn

import vitrail
from vitrail.errors import UsageError
from vitrail.heads.blocks import BatchNorm, initialise, map_norm
from vitrail.heads.segment import HeadConfig, Linear, Segmenter
from vitrail.models import swin, vit
from vitrail.weights.rules import convert
from vitrail.weights.tables.swin import TRANSFORMERS

FAMILIES = sorted(set(SMALL) - {"dit", "jit"})  # those make images, and have no maps
KINDS = ("linear", "fpn", "pup", "upernet", "mask")
WITH_WIDTH = {"fpn": 16, "pup": 16, "upernet": 16}
ODD = {"efficientvit_msra": (96, 138)}  # neither side divides into cells, and it is not square
VIT = vit.Config(width=32, depth=4, heads=4, patch=8, size=(64, 64))


def segmenter(backbone, kind, classes=3, **keys):
    return Segmenter(backbone, HeadConfig(kind, classes, WITH_WIDTH.get(kind, 0), auxiliary=kind == "upernet", **keys))


def one_of_five(family, kind):
    """All are tried by `make test-all`; `make test` takes a fifth of them, every family and every head among them."""
    quick = (FAMILIES.index(family) + KINDS.index(kind)) % 5 == 0
    return pytest.param(family, kind, marks=() if quick else pytest.mark.slow)


@pytest.mark.parametrize(("family", "kind"), [one_of_five(family, kind) for family in FAMILIES for kind in KINDS])
def test_every_head_on_every_family(family, kind):
    """A class for every pixel at any size; and every parameter that learns has a gradient, which processes must agree
    on."""
    model = segmenter(small(family), kind)
    size = ODD.get(family, (72, 50))
    logits, second = model.forward_all(torch.randn(2, 3, *size))
    assert logits.shape == (2, 3, *size)
    assert (second is not None) == (kind == "upernet")
    assert second is None or second.shape == logits.shape
    (logits.square().mean() + (0 if second is None else second.square().mean())).backward()
    assert [n for n, p in model.named_parameters() if (p.grad is None) == p.requires_grad] == []
    with torch.no_grad():
        model.eval()
        x = torch.randn(1, 3, *size)
        torch.testing.assert_close(model(x), model.forward_all(x)[0])


def test_only_what_makes_summaries_is_frozen():
    frozen = {n for n, p in segmenter(small("pvt"), "fpn").named_parameters() if not p.requires_grad}
    assert frozen == {"backbone.norm.weight", "backbone.norm.bias"}
    frozen = {
        n.split(".")[1]
        for n, p in segmenter(small("vit", pre_logits=8), "mask").named_parameters()
        if not p.requires_grad
    }
    assert frozen == {"pre_logits"}


@pytest.mark.parametrize("kind", ["fpn", "pup", "upernet"])
def test_maps_of_several_depths_all_have_their_say(kind):
    model = segmenter(vit.build(dataclasses.replace(VIT, map_depths=(1, 2, 3))), kind)
    x = torch.randn(1, 3, 40, 56, requires_grad=True)
    maps = [m.detach().requires_grad_() for m in model.backbone(x).maps]
    model.heads["main"](model.heads["neck"](maps)).square().sum().backward()
    expected = [True] * 4 if kind != "pup" else [False, True, True, True]  # stride 8 has three doublings, so two skips
    assert [m.grad is not None and bool(m.grad.any()) for m in maps] == expected


def test_progressive_upsampling_of_one_map_is_setr():
    """Four times a 3x3 convolution, norm, ReLU and doubling, and a classifier; every one of them written out."""
    model = segmenter(vit.build(dataclasses.replace(VIT, patch=16)), "pup", classes=5, norm="batch", dropout=0.0).eval()
    head = model.heads["main"]
    assert len(head.convs) == 4
    assert len(head.skips) == 0
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        y = model.heads["neck"](model.backbone(x).maps)[0]
        for conv in head.convs:
            y = F.interpolate(F.relu(conv.norm(conv.conv(y))), scale_factor=2, mode="bilinear")
        torch.testing.assert_close(model(x), head.classify.proj(y))


def test_what_was_padded_is_cut_off_not_squeezed_in():
    """An image with a seam keeps the seam where it is, though the patches reach beyond the image."""

    class Ramp(nn.Module):
        map_widths, strides, config = (1,), (16,), vit.Config(size=(32, 32))

        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x):
            down, across = (-(-side // 16) for side in x.shape[2:])
            ramp = (torch.arange(across, device=x.device) * 16.0 + 7.5).expand(x.shape[0], 1, down, across)
            return vitrail.types.Features((), (self.scale * ramp,))

    model = Segmenter(Ramp(), HeadConfig("linear", 2)).eval()
    nn.init.ones_(model.heads["main"].classify.proj.weight)
    said = model(torch.zeros(1, 3, 40, 59))[
        0, 0
    ]  # the column of each pixel, between the middles of the first and the last cell
    torch.testing.assert_close(said[:, 8:55], torch.arange(8.0, 55).expand(40, -1))


UPERNET = {"psp_modules.{i}.1.": "pools.{i}.1.", "lateral_convs.{i}.": "laterals.{i}.", "fpn_convs.{i}.": "smooth.{i}."}


def upernet_names(name):
    """A name inside transformers' heads as one of ours."""
    for theirs, ours in UPERNET.items():
        for i in range(4):
            name = name.replace(theirs.format(i=i), ours.format(i=i))
    name = (
        name.replace("fpn_bottleneck.", "fuse.").replace("convs.0.", "conv.").replace("classifier.", "classify.proj.")
    )
    return (
        name.replace("batch_norm.", "norm.bn.")
        .replace("decode_head.", "heads.main.")
        .replace("auxiliary_head.", "heads.auxiliary.")
    )


def taken(theirs):
    """Transformers' UPerNet on a Swin, as the state of ours."""
    found, inside = {}, {}
    for name, tensor in theirs.state_dict().items():
        if name.startswith("backbone.hidden_states_norms.stage"):
            _, _, stage, part = name.split(".")
            found[f"heads.neck.norms.{int(stage[5:]) - 1}.norm.{part}"] = tensor
        elif name.startswith("backbone."):
            inside[name.removeprefix("backbone.")] = tensor
        else:
            found[upernet_names(name)] = tensor
    made = convert(inside, TRANSFORMERS)
    assert made.unknown == []
    found |= {f"backbone.{name}": tensor for name, tensor in made.tensors.items()}
    found["backbone.norm.weight"], found["backbone.norm.bias"] = (
        torch.ones(128),
        torch.zeros(128),
    )  # they norm that map once
    return found


@pytest.mark.parametrize("size", [(128, 128), (128, 192)])
def test_upernet_gives_the_numbers_of_transformers(size):
    transformers = pytest.importorskip("transformers")
    keys = {"embed_dim": 16, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 4, 8], "window_size": 2, "image_size": 128}
    backbone = transformers.SwinConfig(**keys, out_features=["stage1", "stage2", "stage3", "stage4"])
    config = transformers.UperNetConfig(backbone_config=backbone, num_labels=7, hidden_size=32, auxiliary_channels=16)
    theirs = stir(transformers.UperNetForSemanticSegmentation(config))
    for m in theirs.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.running_mean, -0.5, 0.5)
            nn.init.uniform_(m.running_var, 0.5, 2.0)
    plan = swin.Config(width=16, depths=(2, 2, 2, 2), heads=(1, 2, 4, 8), window=2, size=(128, 128))
    ours = Segmenter(swin.build(plan), HeadConfig("upernet", 7, 32, "batch", auxiliary=True)).eval()
    ours.load_state_dict(taken(theirs))
    x = torch.randn(2, 3, *size)
    said = []
    theirs.auxiliary_head.register_forward_hook(lambda module, args, out: said.append(out))
    with torch.no_grad():
        logits, second = ours.forward_all(x)
        assert relative_error(logits, theirs(x).logits) <= 1e-5
        assert relative_error(second, F.interpolate(said[0], size, mode="bilinear")) <= 1e-5
        assert relative_error(logits[:1], logits[1:]) > 1e-2


def test_upernet_has_the_parameters_of_transformers():
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        backbone = transformers.SwinConfig(out_features=["stage1", "stage2", "stage3", "stage4"])
        theirs = transformers.UperNetForSemanticSegmentation(
            transformers.UperNetConfig(backbone_config=backbone, num_labels=150)
        )
        ours = Segmenter(vitrail.backbone("swin/tiny"), HeadConfig("upernet", 150, norm="batch", auxiliary=True))
    assert count(ours) == count(theirs) == 59_943_398


@pytest.mark.parametrize(("name", "millions"), every_third([
    ("pvt/tiny", 17.0), ("pvt/small", 28.2), ("pvt/medium", 48.0), ("pvt/large", 65.1), ("pvt_v2/b5", 85.7),
    ("pvt_v2/b2", 29.1),
]))  # fmt: skip
def test_semantic_fpn_has_the_published_number_of_parameters(name, millions):
    """PVT (Wang et al. 2021), table 4, and PVT v2 (2022), table 5, with the 150 classes of ADE20K."""
    with torch.device("meta"):
        assert round(count(Segmenter(vitrail.backbone(name), HeadConfig("fpn", 150))) / 1e6, 1) == millions


def test_mask_transformer_has_the_parameters_of_its_formula():
    width, classes = 192, 150
    block = 12 * width**2 + 13 * width  # qkv, proj and MLP with biases, two norms
    wanted = width * (width + 1) + classes * width + 2 * block + 2 * width + 2 * width**2 + 2 * classes
    with torch.device("meta"):
        model = Segmenter(vitrail.backbone("vit/tiny"), HeadConfig("mask", classes))
    assert count(model.heads) == wanted


def test_mask_transformer_by_its_formula():
    """A block written out with einsum, then cosines between cells and classes, normed over the classes."""
    torch.manual_seed(1)
    head = segmenter(vit.build(VIT), "mask", classes=5).heads["main"].eval()
    for p in head.parameters():
        p.data += 0.1 * torch.randn_like(p)
    fmap = torch.randn(2, 32, 3, 4)
    with torch.no_grad():
        x = torch.einsum("bchw,dc->bhwd", fmap, head.inside.weight).reshape(2, 12, 32) + head.inside.bias
        x = torch.cat([x, head.classes[None].repeat(2, 1, 1)], 1)
        for block in head.blocks:
            y = F.layer_norm(x, (32,), block.norm1.weight, block.norm1.bias)
            q, k, v = (y @ block.attn.qkv.weight.T + block.attn.qkv.bias).split(
                32, -1
            )  # one head of fewer than 64 channels
            seen = torch.softmax(torch.einsum("bnd,bmd->bnm", q, k) / 32**0.5, -1)
            x = x + (seen @ v) @ block.attn.proj.weight.T + block.attn.proj.bias
            y = F.layer_norm(x, (32,), block.norm2.weight, block.norm2.bias)
            x = (
                x
                + F.gelu(y @ block.mlp.fc1.weight.T + block.mlp.fc1.bias) @ block.mlp.fc2.weight.T
                + block.mlp.fc2.bias
            )
        x = F.layer_norm(x, (32,), head.norm.weight, head.norm.bias)
        cells, kinds = x[:, :12] @ head.cell_proj, x[:, 12:] @ head.class_proj
        cosine = F.cosine_similarity(cells[:, :, None], kinds[:, None], dim=-1)
        wanted = (
            F.layer_norm(cosine, (5,), head.mask_norm.weight, head.mask_norm.bias).permute(0, 2, 1).reshape(2, 5, 3, 4)
        )
        torch.testing.assert_close(head([fmap]), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["linear", "fpn", "pup", "upernet"])
@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_a_batch_of_one_tiny_image_trains(kind, norm):
    """Pooling to one cell leaves one value a channel, which has no variance of its own."""
    model = segmenter(vit.build(VIT), kind, norm=norm)
    sum(logits.square().sum() for logits in model.forward_all(torch.randn(1, 3, 8, 8)) if logits is not None).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters() if p.requires_grad)


def test_batch_norm_is_torchs():
    ours, theirs = BatchNorm(4), nn.BatchNorm2d(4)
    x = torch.randn(2, 4, 3, 5)
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.bn.running_var, theirs.running_var)
    torch.testing.assert_close(ours(x[:1, :, :1, :1]), theirs.eval()(x[:1, :, :1, :1]))


@pytest.mark.parametrize("width", [1, 7, 8, 20, 28, 50, 64, 256, 512])
def test_groups_divide_every_width(width):
    assert torch.isfinite(map_norm("group", width)(torch.randn(2, width, 2, 2))).all()


def test_groups_are_32_at_the_published_widths():
    assert [map_norm("group", width).num_groups for width in (256, 512)] == [32, 32]


def test_linear_with_batch_norm_is_dinov2s():
    model = segmenter(vit.build(VIT), "linear", norm="batch").eval()
    x = torch.randn(1, 3, 64, 64)
    linear, bn = model.heads["main"].classify.proj, model.heads["main"].norm.bn
    wanted = F.interpolate(linear(bn(model.backbone(x).maps[0])), (64, 64), mode="bilinear")
    torch.testing.assert_close(model(x), wanted)
    assert count(model.heads) == 2 * 32 + 3 * 32 + 3


@pytest.mark.parametrize(("keys", "said"), [
    ({"kind": "linear", "width": 8}, "width 8 has no effect"), ({"kind": "mask", "norm": "batch"}, "norms of its own"),
    ({"kind": "fpn", "auxiliary": True}, "no auxiliary head"), ({"kind": "mask", "neck": "simple"}, "reads no pyramid"),
])  # fmt: skip
def test_says_what_a_head_has_no_use_for(keys, said):
    with pytest.raises(UsageError, match=said):
        Segmenter(vit.build(VIT), HeadConfig(**{"classes": 3, **keys}))


@pytest.mark.parametrize("kind", ["fpn", "upernet"])
def test_the_simple_pyramid_under_a_head(kind):
    torch.manual_seed(0)
    backbone = vit.build(dataclasses.replace(VIT, depth=4, map_depths=(2, 4), window=2))
    model = Segmenter(backbone, HeadConfig(kind, 3, 16, neck="simple", auxiliary=kind == "upernet"))
    logits, second = model.forward_all(torch.randn(2, 3, 41, 70))
    assert logits.shape == (2, 3, 41, 70)
    (logits.square().mean() + (0 if second is None else second.square().mean())).backward()
    assert [n for n, p in model.named_parameters() if (p.grad is None) == p.requires_grad] == []


def test_building_leaves_the_backbone_as_it_is():
    """Looking for what is idle runs the backbone, and neither its mode, nor its running statistics, nor random numbers
    notice."""
    for training in (True, False):
        backbone = small("mobilevit", dropout=0.5).train(training)
        before = {name: t.clone() for name, t in backbone.state_dict().items()}
        torch.manual_seed(3)
        model = segmenter(backbone, "linear")
        drawn = torch.rand(())
        torch.manual_seed(3)
        head = Linear(backbone.map_widths[-1], 3, "none", 0.1)
        initialise(head)
        assert torch.equal(drawn, torch.rand(()))
        assert torch.equal(head.classify.proj.weight, model.heads["main"].classify.proj.weight)
        assert backbone.training == training
        assert all(torch.equal(t, before[name]) for name, t in backbone.state_dict().items())


@pytest.mark.parametrize(
    "kind", ["upernet", *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS if kind != "upernet")]
)
def test_exports(kind):
    model = segmenter(vit.build(VIT), kind).eval()
    x = torch.randn(1, 3, 64, 48)
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), model(x), rtol=1e-4, atol=1e-5)


def test_settles():
    """Running statistics move in training and are used in evaluation."""
    model = settle(segmenter(vit.build(VIT), "upernet", norm="batch"))
    assert bool((model.heads["main"].fuse.norm.bn.running_mean != 0).any())
