"""Sparse attention is dense attention with the far pairs masked."""

import dataclasses
import warnings

import pytest
import torch
import torch.nn.functional as F

import vitrail
from vitrail.layers.neighbourhood import VisiblePairs
from vitrail.models.vit import Config, build

TINY = Config(width=32, depth=2, heads=4, patch=8, size=(32, 40), registers=1, attention_radius=1)


@pytest.mark.parametrize(
    ("grid", "leading", "radius"), [((4, 5), 2, 1), ((3, 7), 0, 2), ((6, 6), 1, 9), ((1, 8), 3, 0)]
)
def test_who_sees_whom_by_hand(grid, leading, radius):
    seen = VisiblePairs(radius, grid, leading)
    allowed = seen.visible_mask()
    assert int(allowed.sum()) == seen.count_pairs()
    for q in range(len(allowed)):
        for k in range(len(allowed)):
            (qy, qx), (ky, kx) = divmod(q - leading, grid[1]), divmod(k - leading, grid[1])
            near = max(abs(qy - ky), abs(qx - kx)) <= radius
            assert bool(allowed[q, k]) == (q < leading or k < leading or near)


def test_flex_attention_equals_the_mask():
    seen = VisiblePairs(1, (4, 5), 2)
    q, k, v = (torch.randn(2, 3, 22, 16) for _ in range(3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that without compiling it saves nothing
        sparse = seen.attend(q, k, v)
    torch.testing.assert_close(sparse, F.scaled_dot_product_attention(q, k, v, seen.bias(q)))


def test_a_sparse_vit_equals_a_dense_one_with_that_mask_and_a_wide_one_is_dense():
    sparse, dense = build(TINY).eval(), build(dataclasses.replace(TINY, attention_radius=None)).eval()
    dense.load_state_dict(sparse.state_dict())
    x = torch.randn(2, 3, 32, 40)
    assert not torch.allclose(sparse(x).maps[0], dense(x).maps[0], atol=1e-4)
    mask = VisiblePairs(1, (4, 5), 2).bias(x)
    for block in dense.blocks:
        plain = block.attn.project
        block.attn.project = lambda *args, plain=plain: plain(*args)._replace(bias=mask)
    torch.testing.assert_close(sparse(x).maps[0], dense(x).maps[0])
    wide = build(dataclasses.replace(TINY, attention_radius=9)).eval()
    wide.load_state_dict(sparse.state_dict())
    for block in dense.blocks:
        del block.attn.project
    torch.testing.assert_close(wide(x).maps[0], dense(x).maps[0])


def test_a_far_patch_is_not_seen_in_one_layer():
    model = build(dataclasses.replace(TINY, depth=1, tokens=0, registers=0, size=(64, 64))).eval()
    x = torch.randn(1, 3, 64, 64)
    other = x.clone()
    other[:, :, :8, :8] += 1.0
    changed = (model(x).maps[0] - model(other).maps[0]).abs().amax((0, 1)) > 1e-6
    assert changed[:2, :2].all()
    assert int(changed.sum()) == 4


def test_cost_counts_the_pairs_that_are_seen():
    dense, sparse = (vitrail.create("vit/tiny", classes=10, size=(224, 224), attention_radius=r) for r in (None, 2))
    a, b = vitrail.cost(dense), vitrail.cost(sparse)
    n, pairs = 197, VisiblePairs(2, (14, 14), 1).count_pairs()
    assert a.attention_bytes - b.attention_bytes == 12 * 3 * (n * n - pairs) * 4
    assert a.macs - b.macs == 12 * 2 * 192 * (n * n - pairs)
    assert (
        vitrail.cost(sparse, 448).attention_bytes < 5 * b.attention_bytes
    )  # grows with the number of patches, not its square
    assert vitrail.cost(dense, 448).attention_bytes > 15 * a.attention_bytes
