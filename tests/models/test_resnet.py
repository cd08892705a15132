"""ResNet: files of every source told by their names, published sizes, options. Its numbers: `test_parity.py`."""

import pytest
import torch
from oracles import count, resnet_timm, resnet_torchvision, resnet_transformers

import vitrail
from vitrail.models.resnet import VARIANTS

MILLIONS = {"18": 11.69, "34": 21.80, "50": 25.56, "101": 44.55, "152": 60.19}
GMACS = {"18": 1.82, "34": 3.67, "50": 4.09, "101": 7.83, "152": 11.56}


def ours_of(depths, block):
    return vitrail.create("resnet/50", classes=5, depths=list(depths), block=block, width=64)


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
@pytest.mark.parametrize(
    ("make", "source", "told"),
    [
        (resnet_torchvision, "auto", "torchvision"),
        (resnet_timm, "timm", "timm"),
        (resnet_transformers, "auto", "transformers"),
    ],
)
def test_files_are_told_by_their_names(tmp_path, make, source, told, block):
    pytest.importorskip(told)
    made = make(block)
    ours = ours_of((1, 2, 1, 1), block)
    torch.save(made.theirs.state_dict(), tmp_path / "x.pth")
    report = vitrail.load_weights(ours, tmp_path / "x.pth", source=source)
    assert (report.fraction, report.source) == (1.0, told)
    assert any("timm" in note for note in report.notes) == (told == "torchvision")  # the two have the same names
    assert all(torch.equal(t, made.ours.state_dict()[n]) for n, t in ours.state_dict().items())


def test_maps_are_as_declared():
    maps = ours_of((1, 1, 2, 1), "bottleneck").backbone(torch.randn(2, 3, 64, 96)).maps
    assert [tuple(m.shape) for m in maps] == [(2, 256 << i, 64 // s, 96 // s) for i, s in enumerate((4, 8, 16, 32))]


@pytest.mark.parametrize("stem", [2, 1])
def test_finer_stems_are_torchvisions_without_pooling(tmp_path, stem):
    from torchvision.models import resnet18

    torch.manual_seed(0)
    theirs = resnet18(num_classes=5).eval()
    theirs.maxpool = torch.nn.Identity()
    if stem == 1:  # as for CIFAR: He et al. 2015, section 4.2
        theirs.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
    ours = vitrail.create("resnet/18", classes=5, stem_stride=stem, size=[32, 48]).eval()
    torch.save(theirs.state_dict(), tmp_path / "x.pth")
    assert vitrail.load_weights(ours, tmp_path / "x.pth").fraction == 1.0
    images = torch.randn(2, 3, 32, 48)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-5)
    maps = ours.backbone(images).maps
    assert ours.backbone.strides == (stem, 2 * stem, 4 * stem, 8 * stem)
    assert [tuple(m.shape[2:]) for m in maps] == [(32 // s, 48 // s) for s in ours.backbone.strides]


def test_names_are_torchvisions():
    from torchvision.models import resnet18

    with torch.device("meta"):
        ours, theirs = vitrail.create("resnet/18", classes=1000), resnet18()
    renamed = {
        n.removeprefix("backbone.").replace("heads.0.", "fc."): tuple(t.shape) for n, t in ours.state_dict().items()
    }
    assert renamed == {n: tuple(t.shape) for n, t in theirs.state_dict().items()}


def test_files_without_counters_of_batches_are_whole(tmp_path):
    model = ours_of((1, 1, 1, 1), "basic")
    state = {n: t for n, t in model.state_dict().items() if not n.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "x.pth")
    assert vitrail.load_weights(model, tmp_path / "x.pth").missing == ()


@pytest.mark.parametrize("name", VARIANTS)
def test_parameter_counts_and_multiply_adds(name):
    import timm

    with torch.device("meta"):
        model, theirs = vitrail.create(f"resnet/{name}", classes=1000), timm.create_model(f"resnet{name}")
    assert count(model) == count(theirs)
    assert abs(count(model) / 1e6 - MILLIONS[name]) < 0.006
    assert abs(vitrail.cost(model).macs / 1e9 / GMACS[name] - 1) < 0.005


def test_every_parameter_learns_and_options_act():
    model = vitrail.create(
        "resnet/50", classes=5, depths=[1, 1, 1, 1], width=8, zero_last=True, channels=5, drop_path=0.5
    )
    block = model.backbone.blocks[0]
    assert not block.bn3.weight.any()
    assert [round(b.drop_path.drop_prob, 3) for b in model.backbone.blocks] == [0.0, 0.167, 0.333, 0.5]
    model = vitrail.create("resnet/18", classes=5, depths=[1, 1, 1, 1], width=8, channels=5)
    model(torch.randn(4, 5, 64, 64)).square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
