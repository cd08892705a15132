"""ResNet is torchvision's and timm's by name and by number."""

import pytest
import torch

import vitrail
from vitrail.models.resnet import VARIANTS

MILLIONS = {"18": 11.69, "34": 21.80, "50": 25.56, "101": 44.55, "152": 60.19}
GMACS = {"18": 1.82, "34": 3.67, "50": 4.09, "101": 7.83, "152": 11.56}


def relative_error(a, b):
    return float((a - b).norm() / b.norm())


def shaken(model):
    for n, t in model.state_dict().items():
        if n.endswith("running_var"):
            t.copy_(0.5 + torch.rand_like(t))
        elif t.is_floating_point():
            t.add_(0.05 * torch.randn_like(t))
    return model.eval()


def ours_of(depths, block):
    return vitrail.create("resnet/50", classes=5, depths=list(depths), block=block, width=64)


def load(ours, state, tmp_path, source="auto"):
    torch.save(state, tmp_path / "x.pth")
    report = vitrail.load_weights(ours, tmp_path / "x.pth", source=source)
    assert report.fraction == 1.0
    return ours.eval(), report


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
@pytest.mark.parametrize("size", [(64, 64), (70, 45)])
@torch.no_grad()
def test_equals_torchvision(tmp_path, block, size):
    from torchvision.models import resnet

    kind = resnet.BasicBlock if block == "basic" else resnet.Bottleneck
    theirs = shaken(resnet.ResNet(kind, [1, 2, 1, 1], num_classes=5))
    ours, report = load(ours_of((1, 2, 1, 1), block), theirs.state_dict(), tmp_path)
    assert report.source == "torchvision"
    assert any("timm" in note for note in report.notes)
    x = torch.randn(2, 3, *size)
    assert relative_error(ours(x), theirs(x)) < 1e-5


@torch.no_grad()
def test_equals_timm(tmp_path):
    from timm.models.resnet import Bottleneck, ResNet

    theirs = shaken(ResNet(Bottleneck, [1, 1, 2, 1], num_classes=5))
    ours, report = load(ours_of((1, 1, 2, 1), "bottleneck"), theirs.state_dict(), tmp_path, "timm")
    assert report.source == "timm"
    x = torch.randn(2, 3, 64, 96)
    assert relative_error(ours(x), theirs(x)) < 1e-5
    maps = ours.backbone(x).maps
    assert [tuple(m.shape) for m in maps] == [(2, 256 << i, 64 // s, 96 // s) for i, s in enumerate((4, 8, 16, 32))]


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
@torch.no_grad()
def test_equals_transformers(tmp_path, block):
    transformers = pytest.importorskip("transformers")
    widths = [64 << i for i in range(4)] if block == "basic" else [256 << i for i in range(4)]
    config = transformers.ResNetConfig(embedding_size=64, hidden_sizes=widths, depths=[1, 1, 2, 1], layer_type=block, num_labels=5)
    theirs = shaken(transformers.ResNetForImageClassification(config))
    ours, report = load(ours_of((1, 1, 2, 1), block), theirs.state_dict(), tmp_path)
    assert report.source == "transformers"
    x = torch.randn(2, 3, 64, 64)
    assert relative_error(ours(x), theirs(x).logits) < 1e-5


def test_names_are_torchvisions():
    from torchvision.models import resnet18

    with torch.device("meta"):
        ours, theirs = vitrail.create("resnet/18", classes=1000), resnet18()
    renamed = {n.removeprefix("backbone.").replace("heads.0.", "fc."): tuple(t.shape) for n, t in ours.state_dict().items()}
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
    count = sum(p.numel() for p in model.parameters())
    assert count == sum(p.numel() for p in theirs.parameters())
    assert abs(count / 1e6 - MILLIONS[name]) < 0.006
    assert abs(vitrail.cost(model).macs / 1e9 / GMACS[name] - 1) < 0.005


def test_every_parameter_learns_and_options_act():
    model = vitrail.create("resnet/50", classes=5, depths=[1, 1, 1, 1], width=8, zero_last=True, channels=5, drop_path=0.5)
    block = model.backbone.blocks[0]
    assert not block.bn3.weight.any()
    assert [round(b.drop_path.rate, 3) for b in model.backbone.blocks] == [0.0, 0.167, 0.333, 0.5]
    model = vitrail.create("resnet/18", classes=5, depths=[1, 1, 1, 1], width=8, channels=5)
    model(torch.randn(4, 5, 64, 64)).square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    torch.export.export(model.eval(), (torch.randn(2, 5, 64, 64),))
