"""Tensors of one shape for a model of another, where that has a meaning: tables over a grid, kernels that cut patches, channels.

Which tensor may be resized is decided by the type of the module that owns it. Values between the cells are made by the kernel that the
module itself uses at run time, so a table resized on loading gives what the model would have computed on that grid.
"""

import math
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, cat, nn

from vitrail.layers.position import Factorised, Learned
from vitrail.layers.relative import TOKEN_ROWS, RelativeBias
from vitrail.layers.resample import resample, resample_1d, resample_bias
from vitrail.models.efficientvit_msra import Cascade

MOST_TOKENS = 3  # summary tokens whose rows a table may begin with


class FittedTensor(NamedTuple):
    """A tensor in the shape wanted, how, and whether the model computes just what it would have with the old one."""

    tensor: Tensor
    how: str
    exact: bool = False
    token: Tensor | None = None  # to be added to the summary tokens, which have no row of their own in this model


def fit_tensor(
    tensor: Tensor, owner: nn.Module, name: str, channels: int, grid: tuple[int, int] | None = None
) -> FittedTensor | None:
    """`tensor` for the parameter `name` of the module `owner`, or None where there is no meaningful way.

    channels: of the model's images. grid: that a position table was made for; a square one is told from its rows.
    """
    wanted = getattr(owner, name).shape
    if isinstance(owner, Learned) and name == "table":
        return position(tensor, owner, grid)
    if isinstance(owner, Factorised) and tensor.ndim == 2 and tensor.shape[1] == wanted[1]:
        return FittedTensor(
            resample_1d(tensor, wanted[0]), f"{len(tensor)} places along an axis to {wanted[0]}, linear"
        )
    if isinstance(owner, RelativeBias) and name == "table":
        return bias(tensor, owner)
    if isinstance(owner, Cascade) and name == "attention_biases":
        return distances(tensor, owner)
    if isinstance(owner, nn.Conv2d) and name == "weight" and tensor.ndim == 4 and tensor.shape[0] == wanted[0]:
        return kernel(tensor, owner, channels)
    return None


def position(table: Tensor, owner: Learned, grid: tuple[int, int] | None) -> FittedTensor | None:
    """A learned table: rows of summary tokens are kept, those of the grid resampled."""
    if table.ndim != 2 or table.shape[1] != owner.table.shape[1]:
        return None
    found = tokens_of(len(table), owner.tokens, grid)
    if found is None:
        return None
    tokens, old = found
    rows, cells = table[:tokens], table[tokens:]
    steps = []
    if old != owner.grid:
        cells = owner.resampled(cells, old, owner.grid)
        steps.append(f"grid {old[0]}x{old[1]} to {owner.grid[0]}x{owner.grid[1]}, {owner.resampling}")
    if tokens == owner.tokens:
        return FittedTensor(cat([rows, cells]), "; ".join([*steps, f"{tokens} rows of tokens kept"]), not steps)
    if not tokens:  # the tokens had no rows: a row of zeros says the same
        zeros = cells.new_zeros(owner.tokens, cells.shape[1])
        return FittedTensor(cat([zeros, cells]), "; ".join([*steps, "zero rows for the tokens"]), not steps)
    if owner.tokens:
        return None
    return FittedTensor(cells, "; ".join([*steps, "the tokens' rows are added to the tokens"]), not steps, rows)


def tokens_of(rows: int, likely: int, grid: tuple[int, int] | None) -> tuple[int, tuple[int, int]] | None:
    """How many rows of a table belong to tokens, and the grid of the others."""
    for tokens in dict.fromkeys((likely, *range(MOST_TOKENS + 1))):
        side = math.isqrt(max(0, rows - tokens))
        old = grid or (side, side)
        if rows > tokens and old[0] * old[1] == rows - tokens:
            return tokens, old
    return None


def bias(table: Tensor, owner: RelativeBias) -> FittedTensor | None:
    """A relative-bias table of a square window: resampled over its displacements, the rows of tokens kept."""
    extra = TOKEN_ROWS if owner.tokens else 0
    side = math.isqrt(max(0, len(table) - extra)) if table.ndim == 2 else 0
    if side % 2 == 0 or side * side != len(table) - extra or table.shape[1] != owner.table.shape[1]:
        return None
    old = ((side + 1) // 2, (side + 1) // 2)
    cells = resample_bias(table[: side * side], old, owner.grid)
    said = f"window {old[0]}x{old[1]} to {owner.grid[0]}x{owner.grid[1]}, bicubic"
    return FittedTensor(cat([cells, table[side * side :]]), said)


def distances(table: Tensor, owner: Cascade) -> FittedTensor | None:
    """Biases [heads window^2] of distances down and across, from a square window of another side: bicubic over the plane of distances,
    as the original does for its detectors."""
    side = math.isqrt(table.shape[1]) if table.ndim == 2 else 0
    if side == 0 or side * side != table.shape[1] or len(table) != len(owner.attention_biases):
        return None
    fitted = resample(table.T, (side, side), (owner.window, owner.window)).T.contiguous()
    return FittedTensor(fitted, f"window {side}x{side} to {owner.window}x{owner.window}, bicubic over distances")


def kernel(weight: Tensor, owner: nn.Conv2d, channels: int) -> FittedTensor | None:
    """The kernel of a first convolution: other channels, another patch."""
    steps = []
    if weight.shape[1] != owner.weight.shape[1]:
        if owner.in_channels != channels or owner.groups != 1:
            return None
        how = "summed" if channels == 1 else f"repeated, times {weight.shape[1]}/{channels}"
        steps.append(f"{weight.shape[1]} channels to {channels}, {how}")
        weight = to_channels(weight, channels)
    if weight.shape[2:] != owner.weight.shape[2:]:
        if owner.kernel_size != owner.stride:
            return None
        new = (owner.kernel_size[0], owner.kernel_size[1])
        steps.append(
            f"patch {weight.shape[2]}x{weight.shape[3]} to {new[0]}x{new[1]}, bicubic with antialiasing, area kept"
        )
        weight = to_patch(weight, new)
    return FittedTensor(weight, "; ".join(steps))


def to_channels(weight: Tensor, channels: int) -> Tensor:
    """A kernel [D C kh kw] for `channels`: one channel takes the sum (a grey image then gives what it gave as three equal ones);
    several take the old ones in turn, times old / new, so that the answer keeps its size."""
    old = weight.shape[1]
    if channels == 1:
        return weight.sum(1, keepdim=True)
    return weight[:, [i % old for i in range(channels)]] * (old / channels)


def to_patch(weight: Tensor, new: tuple[int, int]) -> Tensor:
    """A kernel for patches of another size: bicubic, because a kernel is a smooth image, with antialiasing, because a smaller patch
    sees every old pixel; times old area / new area, so that an even patch gives the vector that it gave before."""
    area = weight.shape[2] * weight.shape[3] / (new[0] * new[1])
    return F.interpolate(weight.float(), size=new, mode="bicubic", antialias=True) * area
