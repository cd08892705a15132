"""Normalisation, alone and behind a convolution, and the scale of a residual branch."""

from typing import Literal

import torch
from torch import Tensor, nn

from vitrail.shapes import Float

NormKind = Literal["layer", "rms"]


def norm(kind: NormKind, width: int, eps: float) -> nn.Module:
    """LayerNorm (mean and variance) or RMSNorm (root mean square only; Zhang & Sennrich 2019) over the last axis."""
    return nn.LayerNorm(width, eps) if kind == "layer" else nn.RMSNorm(width, eps)


class LayerScale(nn.Module):
    """A learned scale per channel on a residual branch (Touvron et al. 2021, "Going deeper", section 2)."""

    def __init__(self, width: int, start: float):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), start))

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        return x * self.gamma


def layer_scale(width: int, start: float | None) -> nn.Module:
    return nn.Identity() if start is None else LayerScale(width, start)


class ConvNorm(nn.Sequential):
    """[B C H W] -> [B D h w]: a convolution without bias that keeps the grid (or halves it), and its BatchNorm. It is
    the unit of LeViT's descendants."""

    def __init__(
        self, eps: float, inside: int, out: int, kernel: int = 1, stride: int = 1, groups: int = 1, gain: float = 1.0
    ):
        """eps: of the norm; gain: initial value of its weights; 0 makes a residual branch start at zero."""
        super().__init__()
        self.conv = nn.Conv2d(inside, out, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out, eps)
        nn.init.constant_(self.bn.weight, gain)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        return self.bn(self.conv(x))  # type: ignore[no-any-return]  # without the loop of a sequence
