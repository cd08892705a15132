"""Attention that is set by hand looks as far and as widely as it was set to."""

import math

import pytest
import torch
from test_models import images, shaken, small

from vitrail.analysis.attention import attention
from vitrail.analysis.distance import entropy, mean_distance, profile_layers
from vitrail.models import vit


def pointing(target, grid=(4, 4), patch=1, registers=0):
    """A ViT of one block and one head whose cell n looks at cell target[n] and nothing else."""
    cells = grid[0] * grid[1]
    config = vit.Config(
        width=cells, depth=1, heads=1, patch=patch, size=(grid[0] * patch, grid[1] * patch), tokens=0,
        registers=registers, norm_at="none", position_tokens=False,
    )  # fmt: skip
    model = vit.build(config)
    for p in model.parameters():
        p.data.zero_()
    model.position.table.data = torch.eye(cells)
    model.blocks[0].attn.qkv.weight.data[:cells] = 1000 * torch.eye(cells)[target].T
    model.blocks[0].attn.qkv.weight.data[cells : 2 * cells] = torch.eye(cells)
    return model


def test_a_shift_by_one_pixel_is_one_pixel_far():
    places = torch.arange(16).view(4, 4)
    model, x = pointing(places.roll(-1, 1).flatten()), torch.zeros(2, 3, 4, 4)
    one = attention(model, x)[0]
    assert torch.equal(one.weights[0, 0].argmax(1).view(4, 4), places.roll(-1, 1))
    torch.testing.assert_close(
        mean_distance(one), torch.full((2, 1), (3 * 1 + 3) / 4)
    )  # the last column looks at the first
    nats, share = entropy(one)
    torch.testing.assert_close(nats, torch.zeros(2, 1), rtol=0, atol=1e-5)
    torch.testing.assert_close(share, torch.zeros(2, 1), rtol=0, atol=1e-5)


def test_distance_counts_pixels_and_leaves_out_tokens_without_a_place():
    places = torch.arange(6).view(2, 3)
    flipped = places.flip(0).flatten()
    one = attention(pointing(flipped, (2, 3), 8), torch.zeros(1, 3, 16, 24))[0]
    torch.testing.assert_close(mean_distance(one), torch.full((1, 1), 8.0))
    half = attention(pointing(flipped, (2, 3), 8, registers=2), torch.zeros(1, 3, 16, 24))[0]
    half.parts[:, :, :, :, :2] = 0.25  # half of the attention goes to registers
    half.parts[:, :, :, :, 2:] *= 0.5
    torch.testing.assert_close(mean_distance(half), torch.full((1, 1), 8.0))


def test_equal_attention_has_all_the_entropy_there_is():
    model = small("vit")
    for block in model.blocks:
        block.attn.qkv.weight.data.zero_()
    found = profile_layers(model, [images("vit"), images("vit", batch=1)])
    assert [p.name for p in found] == ["blocks.0.attn", "blocks.1.attn"]
    centres = (torch.arange(8) + 0.5) * 8
    place = torch.cartesian_prod(centres, centres)
    for p in found:
        torch.testing.assert_close(p.entropy, torch.full((4,), math.log(65)))
        torch.testing.assert_close(p.entropy_share, torch.ones(4))
        torch.testing.assert_close(p.distance, torch.cdist(place, place).mean().expand(4))


def test_every_image_counts_the_same_whatever_its_batch():
    model, x = shaken("vit"), images("vit", batch=3)
    together, apart = profile_layers(model, [x]), profile_layers(model, [x[:2], x[2:]])
    for a, b in zip(together, apart, strict=True):
        torch.testing.assert_close(a.distance, b.distance)
        torch.testing.assert_close(a.entropy, b.entropy)


@pytest.mark.parametrize("size", [(64, 64), (100, 72)])
def test_windows_are_measured_on_the_map(size):
    """The same numbers from the whole matrix, in which a shifted window is where it is."""
    x = images("swin", size)
    for one in attention(shaken("swin"), x, [0, 1, 3]):
        w = one.weights
        apart = torch.cdist(one.queries.centres, one.keys.centres)
        wanted = ((w * apart).sum(-1) / w.sum(-1)).mean(-1)
        torch.testing.assert_close(mean_distance(one), wanted, rtol=1e-4, atol=1e-4)
        assert mean_distance(one).max() < 4 * 4 * 2**0.5


def test_windows_that_see_themselves_alone_are_nowhere_far():
    model = small("swin")
    for stage in model.layers:
        for block in stage.blocks:
            h, w = block.windows.size
            block.attn.relative.table.data.fill_(-1000)
            block.attn.relative.table.data[(h - 1) * (2 * w - 1) + w - 1] = 0  # the displacement of nothing
    for p in profile_layers(model, [images("swin")]):
        torch.testing.assert_close(p.distance, torch.zeros_like(p.distance))


def test_masked_keys_do_not_count_for_what_could_be_seen():
    model = small("vit", attention_radius=1)
    for block in model.blocks:
        block.attn.qkv.weight.data.zero_()
    one = attention(model, images("vit"), 0)[0]
    torch.testing.assert_close(entropy(one)[1], torch.ones(2, 4))
    seen = (one.weights[0, 0] > 0).sum(-1).float()
    torch.testing.assert_close(entropy(one)[0][0, 0], seen.log().mean())
    straight, shifted = small("swin"), None
    for stage in straight.layers:
        for block in stage.blocks:
            block.attn.qkv.weight.data.zero_()
            block.attn.relative.table.data.zero_()
    shifted = attention(straight, images("swin"), 1)[0]
    torch.testing.assert_close(entropy(shifted)[1], torch.ones(2, 1))


def test_reduced_keys_are_at_the_centre_of_their_cells():
    model = small("pvt")
    for block in model.blocks:
        block.attn.q.weight.data.zero_()
    one = attention(model, images("pvt"), 0)[0]  # 16 x 16 cells of 4 pixels look at 2 x 2 of 32 alike
    cells, keys = (torch.arange(16) + 0.5) * 4, torch.tensor([16.0, 48.0])
    wanted = torch.cdist(torch.cartesian_prod(cells, cells), torch.cartesian_prod(keys, keys)).mean()
    torch.testing.assert_close(mean_distance(one), wanted.expand(2, 1))


def test_queries_without_a_place_have_no_distance():
    one = attention(shaken("crossvit"), images("crossvit"), "blocks.0.fusion.0")[0]
    assert mean_distance(one).isnan().all()
    assert entropy(one)[0].isfinite().all()
