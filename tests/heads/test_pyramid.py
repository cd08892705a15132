"""A pyramid of any backbone's maps: widths, strides and sizes as declared, at sizes that divide into nothing."""

import pytest
import torch
from torch import nn

from vitrail.errors import UsageError
from vitrail.heads.pyramid import Pyramid, SimplePyramid, Skips, is_pyramid


def maps(widths, sizes):
    return [torch.randn(2, width, *size) for width, size in zip(widths, sizes, strict=True)]


@pytest.mark.parametrize(("strides", "is_one"), [
    ((4, 8, 16, 32), True), ((16, 32, 64), True), ((16, 16, 16, 16), False), ((12, 17), False), ((16,), False),
    ((8, 16), False),
])  # fmt: skip
def test_pyramids_are_known_by_their_strides(strides, is_one):
    assert is_pyramid(strides) == is_one


def test_a_pyramid_stays_as_it_is_but_for_its_norms():
    given = maps((8, 16, 24), ((5, 7), (3, 4), (2, 2)))
    pyramid = Pyramid((8, 16, 24), (16, 32, 64), "group")
    assert (pyramid.widths, pyramid.strides, pyramid.sources) == ((8, 16, 24), (16.0, 32.0, 64.0), (0, 1, 2))
    for x, y in zip(given, pyramid(given), strict=True):
        mean, deviation = x.mean(1, keepdim=True), x.var(1, correction=0, keepdim=True).sqrt()
        torch.testing.assert_close(y, (x - mean) / deviation, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("depths", "sources"),
    [(1, (0, 0, 0, 0)), (2, (0, 0, 1, 1)), (3, (0, 1, 1, 2)), (4, (0, 1, 2, 3)), (6, (0, 2, 3, 5))],
)
def test_maps_of_one_stride_become_four_levels(depths, sources):
    pyramid = Pyramid((8,) * depths, (16,) * depths, "group")
    assert pyramid.sources == sources
    assert pyramid.strides == (4.0, 8.0, 16.0, 32.0)
    levels = pyramid(maps((8,) * depths, ((5, 7),) * depths))
    assert [tuple(level.shape) for level in levels] == [(2, 8, 20, 28), (2, 8, 10, 14), (2, 8, 5, 7), (2, 8, 3, 4)]


def test_two_branches_become_four_levels():
    pyramid = Pyramid((8, 16), (12, 17), "batch")
    levels = pyramid(maps((8, 16), ((10, 5), (7, 4))))
    assert [tuple(level.shape[1:]) for level in levels] == [(8, 40, 20), (8, 20, 10), (16, 7, 4), (16, 4, 2)]
    assert pyramid.strides == (3.0, 6.0, 17.0, 34.0)


def test_a_map_of_one_cell_is_enough():
    assert [x.shape[2] for x in Pyramid((8,), (16,), "group")([torch.randn(1, 8, 1, 1)])] == [4, 2, 1, 1]


def test_deconvolutions_are_those_of_mae():
    """Two with norm and GELU between, one, nothing, a maximum."""
    names = [[type(m).__name__ for m in scale] if isinstance(scale, nn.Sequential) else type(scale).__name__
             for scale in Pyramid((8,), (16,), "batch").scales]  # fmt: skip
    assert names == [["ConvTranspose2d", "BatchNorm", "GELU", "ConvTranspose2d"], ["ConvTranspose2d"], [], "MaxPool2d"]


def test_skips_are_the_last_maps():
    skips = Skips((4, 8, 16), (8, 8, 8), 2)
    assert (skips.sources, skips.widths) == ((1, 2), (8, 16))
    assert [x.shape[1] for x in skips(maps((4, 8, 16), ((3, 3),) * 3))] == [8, 16]


@pytest.mark.parametrize("levels", [(0, 1, 2, 3), (1, 2, 3), (3,)])
def test_the_simple_pyramid_is_made_of_the_last_map(levels):
    """Of 4, 2, 1 and 1/2 of its size, whatever that is; every parameter counts, also where levels are left out."""
    pyramid = SimplePyramid((8, 16), (16, 16), 12, levels)
    assert pyramid.strides == tuple((4.0, 8.0, 16.0, 32.0)[level] for level in levels)
    assert set(pyramid.sources) == {1}
    out = pyramid(maps((8, 16), ((5, 7), (5, 7))))
    sizes = [(20, 28), (10, 14), (5, 7), (3, 4)]
    assert [tuple(x.shape) for x in out] == [(2, 12, *sizes[level]) for level in levels]
    sum(x.square().sum() for x in out).backward()
    assert all(p.grad is not None for p in pyramid.parameters())


def test_the_simple_pyramid_has_the_parameters_of_vitdet():
    """ViT-B to 256 channels, by the text of the paper and detectron2: deconvolutions to 384 and 192, to 384; 1x1 and
    3x3 without bias; LayerNorms of two."""
    with torch.device("meta"):
        count = sum(p.numel() for p in SimplePyramid((768,), (16,), 256).parameters())
    up = (768 * 384 * 4 + 384) + 2 * 384 + (384 * 192 * 4 + 192) + (768 * 384 * 4 + 384)
    assert count == up + sum(inside * 256 + 256 * 256 * 9 + 4 * 256 for inside in (192, 384, 768, 768))


def test_a_pyramid_needs_no_simple_one():
    with pytest.raises(UsageError, match="4 8 16 32"):
        SimplePyramid((8,) * 4, (4, 8, 16, 32), 12)
