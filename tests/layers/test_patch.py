"""Patch embedding: cutting and a linear layer, whatever the shape of the patch, the channels and the size of the
image."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrail.layers.patch import PatchEmbed, grid_of

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def relative_error(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("patch", [(16, 16), (4, 8), (3, 1)])
def test_equals_unfold_and_a_linear_layer(channels, patch):
    embed, images = PatchEmbed(channels, 24, patch), torch.randn(2, channels, patch[0] * 3, patch[1] * 5)
    cut = F.unfold(images, patch, stride=patch).mT  # [B h*w C*ph*pw]
    wanted = F.linear(cut, embed.proj.weight.flatten(1), embed.proj.bias).unflatten(1, (3, 5))
    made = embed(images)
    assert made.shape == (2, 3, 5, 24)
    assert relative_error(made, wanted) <= 1e-6


def test_cells_lie_in_raster_order():
    embed, images = PatchEmbed(1, 1, (2, 3)), torch.arange(4 * 9.0).view(1, 1, 4, 9)
    torch.nn.init.ones_(embed.proj.weight)
    torch.nn.init.zeros_(embed.proj.bias)
    wanted = [[images[0, 0, 2 * y : 2 * y + 2, 3 * x : 3 * x + 3].sum().item() for x in range(3)] for y in range(2)]
    assert embed(images)[0, :, :, 0].tolist() == wanted


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 7), st.integers(1, 7))
def test_any_size_is_padded_with_zeros_right_and_below(height, width, ph, pw):
    embed, images = PatchEmbed(2, 4, (ph, pw)), torch.randn(1, 2, height, width)
    h, w = grid_of((height, width), (ph, pw))
    assert 0 <= h * ph - height < ph
    assert 0 <= w * pw - width < pw
    whole = torch.zeros(1, 2, h * ph, w * pw)
    whole[..., :height, :width] = images
    assert embed(images).shape == (1, h, w, 4)
    torch.testing.assert_close(embed(images), embed(whole))


def test_agrees_with_timm():
    timm = pytest.importorskip("timm.layers")
    theirs = timm.PatchEmbed(
        img_size=(32, 48), patch_size=16, in_chans=3, embed_dim=24, flatten=False, output_fmt="NHWC"
    )
    ours, images = PatchEmbed(3, 24, (16, 16)), torch.randn(2, 3, 32, 48)
    ours.load_state_dict(theirs.state_dict())
    assert torch.equal(ours(images), theirs(images))


@pytest.mark.parametrize("size", [(8, 12), (9, 13)])
def test_gradients_and_export(size):
    embed, images = PatchEmbed(3, 8, (4, 4)), torch.randn(2, 3, *size)
    embed(images).square().sum().backward()
    assert all((p.grad != 0).all() for p in embed.parameters())
    program = torch.export.export(
        embed, (images,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},)
    ).module()
    other = torch.randn(5, 3, *size)
    torch.testing.assert_close(program(other), embed(other))
