"""Tables, patches and channels of another size: only when asked, tokens kept, and equal to what the model does by
itself."""

import pytest
import torch
import torch.nn.functional as F

import vitrail
from vitrail.errors import CheckpointError
from vitrail.layers.position import Factorised, Learned
from vitrail.layers.relative import RelativeBias
from vitrail.weights.resize import fit_tensor, to_channels, to_patch

TINY = {"width": 32, "depth": 1, "heads": 4, "patch": 8}


def file_of(tmp_path, model):
    torch.save(model.state_dict(), tmp_path / "x.pth")
    return tmp_path / "x.pth"


@pytest.mark.parametrize("keys", [{}, {"tokens": 2}, {"tokens": 0}, {"position_tokens": False}, {"registers": 2},
                                  {"position_resampling": "antialias"}, {"position_resampling": "dino"}])  # fmt: skip
def test_a_resized_table_is_what_the_model_computes_by_itself(tmp_path, keys):
    old = vitrail.create("vit/tiny", classes=3, size=(56, 56), **{**TINY, **keys}).eval()
    new = vitrail.create("vit/tiny", classes=3, size=(40, 72), **{**TINY, **keys}).eval()
    path = file_of(tmp_path, old)
    with pytest.raises(CheckpointError, match="--resize"):
        vitrail.load_weights(new, path)
    report = vitrail.load_weights(new, path, resize=True)
    assert "grid 7x7 to 5x9" in report.resized["backbone.position.table"]
    x = torch.randn(2, 3, 40, 72)
    with torch.no_grad():
        torch.testing.assert_close(new(x), old(x))


def test_the_old_grid_can_be_stated(tmp_path):
    old = vitrail.create("vit/tiny", classes=3, size=(32, 64), **TINY).eval()  # 4x8
    new = vitrail.create("vit/tiny", classes=3, size=(64, 32), **TINY).eval()  # 8x4: as many rows
    path = file_of(tmp_path, old)
    with pytest.raises(CheckpointError, match="grid 4x8 to 8x4"):
        vitrail.load_weights(new, path, grid=(4, 8))
    vitrail.load_weights(new, path, grid=(4, 8), resize=True)
    x = torch.randn(1, 3, 64, 32)
    with torch.no_grad():
        torch.testing.assert_close(new(x), old(x))


def test_fixed_vectors():
    """Maps that can be done by hand: a constant stays a constant; antialiased (a = -0.5) a slope stays a slope away
    from the border; plain bicubic (a = -0.75) has the weights of Keys 1981 at a quarter and three quarters."""
    owner = Learned((4, 4), 2, tokens=1)
    table = torch.cat([torch.tensor([[7.0, 9.0]]), torch.full((4, 2), 3.0)])
    fitted = fit_tensor(table, owner, "table", 3)
    assert fitted.tensor[0].tolist() == [7.0, 9.0]
    torch.testing.assert_close(fitted.tensor[1:], torch.full((16, 2), 3.0), rtol=0, atol=1e-6)
    ramp = torch.arange(8.0).repeat(8, 1).flatten()[:, None].expand(64, 2)
    owners = [Learned((16, 16), 2, tokens=1, resampling=kind) for kind in ("antialias", "bicubic")]
    slope, plain = (
        fit_tensor(torch.cat([table[:1], ramp]), owner, "table", 3).tensor[1:].view(16, 16, 2)[8, 4:12, 0]
        for owner in owners
    )
    torch.testing.assert_close(slope, torch.arange(4, 12) / 2 - 0.25, rtol=0, atol=1e-6)
    a, t = -0.75, torch.tensor([0.75, 0.25])  # place 1.75 = 1 + 0.75 and 2.25 = 2 + 0.25 of the old axis
    near, far = (lambda x: (a + 2) * x**3 - (a + 3) * x**2 + 1), (lambda x: a * (x**3 - 5 * x**2 + 8 * x - 4))
    first = torch.tensor([1.0, 2.0])
    wanted = far(1 + t) * (first - 1) + near(t) * first + near(1 - t) * (first + 1) + far(2 - t) * (first + 2)
    torch.testing.assert_close(plain[:2], wanted, rtol=0, atol=1e-6)
    assert fit_tensor(torch.zeros(15, 2), owner, "table", 3) is None
    assert fit_tensor(torch.zeros(17, 3), owner, "table", 3) is None


def test_relative_and_factorised_tables():
    bias = RelativeBias((5, 5), 2, tokens=1)
    fitted = fit_tensor(torch.cat([torch.ones(49, 2), torch.arange(6.0).view(3, 2)]), bias, "table", 3)
    torch.testing.assert_close(fitted.tensor[:81], torch.ones(81, 2))
    assert fitted.tensor[81:].flatten().tolist() == list(range(6))
    assert "window 4x4 to 5x5" in fitted.how
    assert fit_tensor(torch.zeros(50, 2), bias, "table", 3) is None
    assert fit_tensor(torch.zeros(7, 4), Factorised((5, 6), 4), "rows", 3).tensor.shape == (5, 4)


@pytest.mark.parametrize("channels", [1, 2, 4, 6, 13])
def test_channels(channels):
    weight = torch.randn(5, 3, 4, 4)
    made = to_channels(weight, channels)
    assert made.shape == (5, channels, 4, 4)
    if channels == 1:  # a grey image gives what its three equal channels gave
        grey = torch.randn(1, 1, 4, 4)
        torch.testing.assert_close(F.conv2d(grey, made), F.conv2d(grey.expand(1, 3, 4, 4), weight))
    if channels == 6:  # an image beside itself gives what it gave
        x = torch.randn(1, 3, 4, 4)
        torch.testing.assert_close(F.conv2d(torch.cat([x, x], 1), made), F.conv2d(x, weight), rtol=1e-4, atol=1e-5)


def test_patches_keep_their_sum(tmp_path):
    weight = torch.randn(5, 3, 16, 16)
    for new in ((14, 14), (8, 8), (32, 32), (16, 8)):
        even = F.conv2d(torch.ones(1, 3, *new), to_patch(torch.ones(5, 3, 16, 16), new))
        torch.testing.assert_close(even, torch.full((1, 5, 1, 1), 3.0 * 256), rtol=1e-4, atol=1e-3)
    smooth = F.interpolate(weight[:, :, :4, :4], size=16, mode="bicubic")
    torch.testing.assert_close(to_patch(to_patch(smooth, (32, 32)), (16, 16)), smooth, rtol=0.2, atol=0.2)
    old = vitrail.create("vit/tiny", classes=3, size=(64, 64), **{**TINY, "patch": 16})
    new = vitrail.create("vit/tiny", classes=3, size=(56, 56), channels=1, **{**TINY, "patch": 14})
    report = vitrail.load_weights(new, file_of(tmp_path, old), resize=True)
    assert report.resized == {"backbone.patch_embed.proj.weight": "3 channels to 1, summed; patch 16x16 to 14x14, "
                              "bicubic with antialiasing, area kept"}  # fmt: skip


def test_what_cannot_be_resized_is_refused(tmp_path):
    old = vitrail.create("vit/tiny", classes=3, size=(32, 32), **TINY)
    for keys in ({"width": 16}, {"mlp_ratio": 2.0}):
        new = vitrail.create("vit/tiny", classes=3, size=(32, 32), **{**TINY, **keys})
        with pytest.raises(CheckpointError, match="do not fit"):
            vitrail.load_weights(new, file_of(tmp_path, old), resize=True)


MSRA = {"widths": (16, 24, 36), "depths": (1, 1, 1), "heads": (2, 3, 4), "kernels": (3, 3, 3, 3), "key_width": 8}


def test_distances_of_efficientvit_go_to_other_windows_as_in_the_original(tmp_path):
    old = vitrail.create("efficientvit_msra/m0", classes=3, size=(224, 224), **MSRA).eval()  # windows 7, 7, 4
    new = vitrail.create("efficientvit_msra/m0", classes=3, size=(448, 448), **MSRA).eval()  # windows 7, 7, 7
    for p in old.parameters():
        torch.nn.init.normal_(p, std=0.2)
    name = "backbone.stages.2.blocks.0.mixer.m.attn.attention_biases"
    path = file_of(tmp_path, old)
    with pytest.raises(CheckpointError, match=r"window 4x4 to 7x7[\s\S]*--resize"):
        vitrail.load_weights(new, path)
    report = vitrail.load_weights(new, path, resize=True)
    assert list(report.resized) == [name]
    table = old.state_dict()[name]
    wanted = F.interpolate(table.view(1, 4, 4, 4), size=(7, 7), mode="bicubic").view(4, 49)
    torch.testing.assert_close(new.state_dict()[name], wanted)
    vitrail.load_weights(new, path, resize=True)
    assert new(torch.randn(2, 3, 100, 70)).isfinite().all()


def test_a_table_of_distances_that_is_not_square_or_has_other_heads_is_refused():
    owner = vitrail.backbone("efficientvit_msra/m0", **MSRA).stages[2].blocks[0].mixer.m.attn
    assert fit_tensor(torch.zeros(4, 16), owner, "attention_biases", 3).tensor.shape == (4, 16)
    for table in (torch.zeros(4, 15), torch.zeros(3, 16), torch.zeros(16)):
        assert fit_tensor(table, owner, "attention_biases", 3) is None
