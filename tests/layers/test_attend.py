"""Attention written out, where a CPU's fused kernel does not take the tensors, against torch's own."""

import pytest
import torch
import torch.nn.functional as F

from vitrail.layers.attention import attend


@pytest.mark.parametrize("value_width", [3, 4, 7])
@pytest.mark.parametrize("channels_first", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_it_is_torchs(value_width, channels_first, masked):
    chance = torch.Generator().manual_seed(0)

    def draw(width):
        x = torch.randn(2, 3, *((width, 5) if channels_first else (5, width)), dtype=torch.float64, generator=chance)
        return (x.mT if channels_first else x).requires_grad_()

    q, k, v = draw(4), draw(4), draw(value_width)
    mask = torch.randn(3, 5, 5, dtype=torch.float64, generator=chance).requires_grad_() if masked else None
    ours, theirs = attend(q, k, v, mask, 0.0), F.scaled_dot_product_attention(q, k, v, mask)
    torch.testing.assert_close(ours, theirs)
    inputs = [q, k, v] + [mask] * masked
    back = torch.randn(ours.shape, dtype=torch.float64, generator=chance)
    torch.testing.assert_close(torch.autograd.grad(ours, inputs, back), torch.autograd.grad(theirs, inputs, back))
