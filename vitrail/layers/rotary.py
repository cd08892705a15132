"""Rotary position embedding (RoPE) on a grid: queries and keys are rotated by angles proportional to their position,
half of the channels of a head for each axis.

Source: RoFormer (Su et al. 2021) extended to two axes as in "Rotary Position Embedding for Vision Transformer" (Heo et
al. 2024), section 3.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from vitrail.errors import UsageError, choose
from vitrail.layers.position import check_width
from vitrail.shapes import Float
from vitrail.types import Grid

PAIRS = ("interleaved", "half")


class Rotation(nn.Module, ABC):
    """Rotates queries and keys by their positions: pairs of channels, each pair by an angle of its own. It has no
    parameters or buffers.

    pairs: "interleaved", channels (2j, 2j+1) rotate together, or "half", channels (j, j + d/2).
    """

    grid: Grid | None  # of images of the model's own size, if any
    pairs: str = "interleaved"

    @abstractmethod
    def angles(self, grid: Grid, device: torch.device | None = None) -> Tensor:
        """The angle of every pair of channels at every cell in raster order: [h*w d/2], float32."""

    def forward(self, x: Tensor, grid: Grid, skip: int = 0) -> Tensor:
        """x [B heads N d], or any axes before [N d]; N = skip + h*w. The first `skip` tokens (class, registers) are not
        rotated."""
        if x.shape[-2] != skip + grid[0] * grid[1]:
            raise UsageError(
                f"{x.shape[-2]} tokens are not {skip} without a position and {grid[0]}x{grid[1]} on the grid"
            )
        return self.turn(x, self.angles(grid, x.device), skip)

    def turn(self, x: Tensor, angles: Tensor, skip: int) -> Tensor:
        """The same by angles [... N d/2] of one's own."""
        patches = rotate(x[..., skip:, :], angles, self.pairs)
        return torch.cat([x[..., :skip, :], patches], dim=-2) if skip else patches


class Rotary(Rotation):
    """Axial RoPE over integer positions (row y, column x), omega_j = base^(-j/(d/4)), j < d/4.

    "interleaved"  the first half of the head is rotated by x, the second by y: the rope-vit models.
    "half"         angles are those of y, then of x, tiled twice: the layout of DINOv3, which however uses positions in
                   [-1, 1] and periods instead of integers.
    """

    def __init__(self, head_width: int, base: float = 100.0, pairs: str = "interleaved", grid: Grid | None = None):
        super().__init__()
        self.grid = grid
        check_width(head_width, 4, "axial RoPE (width of one head)")
        self.head_width, self.base = head_width, base
        self.pairs = choose(pairs, PAIRS, "pairing of rotary channels")

    def extra_repr(self) -> str:
        return f"{self.head_width}, base={self.base}, pairs={self.pairs!r}"

    def angles(self, grid: Grid, device: torch.device | None = None) -> Tensor:
        h, w = grid
        y, x = (axis_angles(count, self.head_width // 4, self.base, device) for count in (h, w))
        y, x = y[:, None].expand(h, w, -1).flatten(0, 1), x.expand(h, w, -1).flatten(0, 1)  # [h*w d/4] each
        return torch.cat([x, y] if self.pairs == "interleaved" else [y, x], dim=1)


def axis_angles(
    count: int, bands: int, base: float, device: torch.device | None = None
) -> Float[Tensor, "{count} {bands}"]:
    """Positions 0..count-1 times base^(-j/bands), j < bands: [count bands], float32."""
    omega = base ** (-torch.arange(bands, dtype=torch.float32, device=device) / bands)
    return torch.arange(count, dtype=torch.float32, device=device)[:, None] * omega


def rotate(x: Float[Tensor, "*B N d"], angles: Float[Tensor, "... N _"], pairs: str) -> Float[Tensor, "*B N d"]:
    """Rotates every pair of channels of x [... N d] by its angle [N d/2]; computed in float32 at least, returned in x's
    dtype."""
    cos, sin = angles.cos(), angles.sin()
    if pairs == "interleaved":
        a, b = x.unflatten(-1, (-1, 2)).unbind(-1)  # [... N d/2] each
        rotated = torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)
    else:
        a, b = x.chunk(2, dim=-1)
        rotated = torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)
    return rotated.to(x.dtype)
