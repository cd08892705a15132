"""Axial RoPE: the numbers of other code bases, what makes it relative, which tokens it leaves alone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrail.errors import UsageError
from vitrail.layers.rotary import Rotary

torch.set_num_threads(1)

PAIRS = ["interleaved", "half"]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("grid", [(14, 14), (5, 9), (1, 4)])
@pytest.mark.parametrize("skip", [0, 1, 5])
def test_interleaved_agrees_with_timm_as_in_the_rope_vit_models(grid, skip):
    timm = pytest.importorskip("timm.layers")
    rope = timm.RotaryEmbeddingCat(64, in_pixels=False, feat_shape=list(grid), temperature=100.0, grid_indexing="xy")
    x = torch.randn(2, 3, skip + grid[0] * grid[1], 64)
    theirs = torch.cat([x[:, :, :skip], timm.apply_rot_embed_cat(x[:, :, skip:], rope.get_embed())], dim=2)
    torch.testing.assert_close(Rotary(64)(x, grid, skip), theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("grid", [(14, 14), (5, 9)])
def test_half_agrees_with_timm_row_first(grid):
    sincos = pytest.importorskip("timm.layers.pos_embed_sincos")
    try:
        rope = sincos.RotaryEmbeddingCat(32, in_pixels=False, feat_shape=list(grid), temperature=10.0, rotate_half=True)
    except TypeError:
        pytest.skip("this version of timm has no half-split layout")
    x = torch.randn(2, 3, grid[0] * grid[1], 32)
    theirs = sincos.apply_rot_embed_cat(x, rope.get_embed(), half=True)
    torch.testing.assert_close(Rotary(32, 10.0, "half")(x, grid), theirs, atol=1e-5, rtol=0)


def plain(x, grid, base, pairs):
    """Token by token, pair by pair, in complex numbers."""
    d, out = x.shape[-1], np.array(x, dtype=np.float64)
    for n in range(grid[0] * grid[1]):
        y, x_ = divmod(n, grid[1])
        first, second = (x_, y) if pairs == "interleaved" else (y, x_)
        for j in range(d // 2):
            place, k = (first, j) if j < d // 4 else (second, j - d // 4)
            a, b = (2 * j, 2 * j + 1) if pairs == "interleaved" else (j, j + d // 2)
            turned = complex(x[n, a], x[n, b]) * np.exp(1j * place * base ** (-k / (d / 4)))
            out[n, a], out[n, b] = turned.real, turned.imag
    return out


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(1, 5),
    st.sampled_from([4, 8, 20]),
    st.sampled_from([10.0, 100.0, 10000.0]),
    st.sampled_from(PAIRS),
)
def test_turns_every_pair_by_its_angle(h, w, d, base, pairs):
    x = torch.randn(h * w, d)
    made = Rotary(d, base, pairs)(x, (h, w)).double()
    torch.testing.assert_close(made, torch.from_numpy(plain(x.numpy(), (h, w), base, pairs)), atol=3e-6, rtol=0)


@pytest.mark.parametrize("pairs", PAIRS)
def test_products_depend_on_the_displacement_only_and_lengths_stay(pairs):
    rope, grid = Rotary(16, pairs=pairs), (5, 7)
    q, k = torch.randn(16).expand(35, 16), torch.randn(16).expand(35, 16)
    turned = rope(q, grid)
    torch.testing.assert_close(turned.norm(dim=-1), q.norm(dim=-1))
    logits = (turned @ rope(k, grid).T).view(5, 7, 5, 7)
    torch.testing.assert_close(logits[1, 2, 3, 0], logits[2, 5, 4, 3])
    torch.testing.assert_close(logits[0, 1, 0, 1], q[0] @ k[0])
    assert not torch.allclose(logits[1, 2, 3, 0], logits[2, 1, 0, 3]), "the sign of the displacement counts"


@pytest.mark.parametrize("pairs", PAIRS)
def test_tokens_without_a_place_are_left_as_they_are(pairs):
    x = torch.randn(2, 3, 4 + 6, 8)
    made = Rotary(8, pairs=pairs)(x, (2, 3), 4)
    assert torch.equal(made[:, :, :5], x[:, :, :5]), "nor is the cell at the origin turned"
    assert not torch.equal(made[:, :, 5:], x[:, :, 5:])
    assert torch.equal(made[:, :, 4:], Rotary(8, pairs=pairs)(x[:, :, 4:], (2, 3)))


@pytest.mark.parametrize("pairs", PAIRS)
def test_low_precision_is_rounded_once(pairs):
    x = torch.randn(2, 3, 35, 16).bfloat16()
    rope = Rotary(16, pairs=pairs).bfloat16()
    made = rope(x, (5, 7))
    assert made.dtype == torch.bfloat16
    assert torch.equal(made, rope(x.float(), (5, 7)).bfloat16())
    assert not rope.state_dict()


@pytest.mark.parametrize("pairs", PAIRS)
def test_gradients_and_export(pairs):
    class Turn(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rope = Rotary(8, pairs=pairs)

        def forward(self, x):
            return self.rope(x, (3, 2), 1)

    x = torch.randn(2, 3, 7, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(Turn(), (x,))
    x = torch.randn(2, 3, 7, 8)
    program = torch.export.export(
        Turn(), (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},)
    ).module()
    other = torch.randn(4, 3, 7, 8)
    torch.testing.assert_close(program(other), Turn()(other))


def test_refuses_what_does_not_fit():
    with pytest.raises(UsageError, match="28 or 32"):
        Rotary(30)
    with pytest.raises(UsageError, match="interleaved"):
        Rotary(32, pairs="interleave")
    with pytest.raises(UsageError, match="17 tokens"):
        Rotary(8)(torch.randn(1, 1, 17, 8), (4, 4), 2)
