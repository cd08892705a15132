"""Sparse attention: a patch attends only to patches near it, and to the class token and registers.

Where torch's FlexAttention has a kernel (CUDA) the distant pairs are never computed; elsewhere they are masked, which
gives the same numbers and saves nothing.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vitrail.shapes import Bool, Float


class Neighbourhood(nn.Module):
    """Restricts an attention to at most `radius` patches up, down, left and right."""

    def __init__(self, radius: int):
        super().__init__()
        self.radius = radius

    def extra_repr(self) -> str:
        return f"radius={self.radius}"


class VisiblePairs(NamedTuple):
    """Which tokens of a grid attend to which: patches whose rows and columns differ by at most `radius`; the `leading`
    tokens (class, registers) attend to all tokens and all attend to them."""

    radius: int
    grid: tuple[int, int]
    leading: int

    def visible_mask(self, device: torch.device | None = None) -> Bool[Tensor, "N N"]:
        """bool [N N], N = leading + h w, true where the query (row) attends to the key (column)."""
        index = torch.arange(self.leading + self.grid[0] * self.grid[1], device=device)
        return self.is_visible(index[:, None], index[None, :])

    def is_visible(self, q: Tensor, k: Tensor) -> Tensor:
        """The same for indices of queries and keys in the sequence."""
        across, leading = self.grid[1], self.leading
        qy, qx = (q - leading).div(across, rounding_mode="floor"), (q - leading) % across
        ky, kx = (k - leading).div(across, rounding_mode="floor"), (k - leading) % across
        near = ((qy - ky).abs() <= self.radius) & ((qx - kx).abs() <= self.radius)
        return near | (q < leading) | (k < leading)

    def bias(self, like: Tensor) -> Float[Tensor, "N N"]:
        """The mask added to the logits, [N N]: zero where visible, minus infinity elsewhere."""
        visible = self.visible_mask(like.device)
        return torch.zeros(visible.shape, dtype=like.dtype, device=like.device).masked_fill(~visible, float("-inf"))

    def count_pairs(self) -> int:
        """How many of the N^2 pairs are visible."""
        reach = [
            sum(min(i + self.radius, side - 1) - max(i - self.radius, 0) + 1 for i in range(side)) for side in self.grid
        ]
        return reach[0] * reach[1] + 2 * self.leading * self.grid[0] * self.grid[1] + self.leading**2

    def attend(
        self, q: Float[Tensor, "B h N d"], k: Float[Tensor, "B h N d"], v: Float[Tensor, "B h N d"]
    ) -> Float[Tensor, "B h N d"]:
        """Attention [B h N d] by torch's FlexAttention, which skips blocks without visible pairs."""
        from torch.nn.attention.flex_attention import flex_attention

        run = compiled_attention() if q.is_cuda else flex_attention
        mixed: Tensor = run(q, k, v, block_mask=block_mask(self, q.device))
        return mixed


@lru_cache(maxsize=32)
def block_mask(visible: VisiblePairs, device: torch.device) -> Any:
    """FlexAttention's mask of blocks with any visible pair, cached for a grid."""
    from torch.nn.attention.flex_attention import create_block_mask

    def is_visible(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return visible.is_visible(q, k)

    n = visible.leading + visible.grid[0] * visible.grid[1]
    return create_block_mask(is_visible, None, None, n, n, device=str(device))


@lru_cache(maxsize=1)
def compiled_attention() -> Any:
    """FlexAttention is only sparse when compiled."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)
