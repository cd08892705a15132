"""Resizes tensors where that is meaningful: tables over a grid, patch kernels, input channels.

The type of the module that owns a tensor decides whether it may be resized. Tables are interpolated with the kernel
that the module uses at run time, so a table resized on loading gives what the model would have computed on that grid.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, cat, nn

from vitrail.contracts import trunk_of
from vitrail.layers.patch import PatchEmbed, grid_of
from vitrail.layers.position import Factorised, Learned
from vitrail.layers.relative import TOKEN_ROWS, RelativeBias
from vitrail.layers.resample import resample, resample_1d, resample_bias
from vitrail.models.efficientvit_msra import Cascade
from vitrail.models.samvit import RelativeAxes
from vitrail.models.tiny_vit import DistanceBias

MOST_TOKENS = 3  # rows of summary tokens at the start of a table


class FittedTensor(NamedTuple):
    """A resized tensor, the method, and whether the model computes exactly the same as with the old tensor."""

    tensor: Tensor
    how: str
    exact: bool = False
    token: Tensor | None = None  # added to the summary tokens, which have no rows in this model


def geometry_of(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The patch of a file's patch kernel, and the size of the images that its position table was made for, as keys of
    the model; what the file does not show is left out. model: on any device; tensors: by the names of its state."""
    config = trunk_of(model).config
    fields, found = {f.name for f in dataclasses.fields(config)}, dict[str, Any]()
    if not {"patch", "size"} <= fields or not isinstance(config.patch, int):
        return found
    patch, own_grid = config.patch, grid_of(config.size, (config.patch, config.patch))
    for name, module in model.named_modules():
        kernel, table = tensors.get(f"{name}.proj.weight"), tensors.get(f"{name}.table")
        if isinstance(module, PatchEmbed) and kernel is not None and kernel.ndim == 4:
            if kernel.shape[2] == kernel.shape[3] != config.patch:
                found["patch"] = patch = kernel.shape[2]
        elif isinstance(module, Learned) and table is not None and module.grid == own_grid:
            split = split_tokens(len(table), module.tokens, None)
            if split is not None and (split[1] != module.grid or patch != config.patch):
                found["size"] = (split[1][0] * patch, split[1][1] * patch)
        elif isinstance(module, RelativeBias) and table is not None and module.grid == own_grid:
            side = relative_side(table, module)
            if side and ((side, side) != module.grid or patch != config.patch):
                found["size"] = (side * patch, side * patch)
    return found


def fit_tensor(
    tensor: Tensor, owner: nn.Module, name: str, channels: int, grid: tuple[int, int] | None = None
) -> FittedTensor | None:
    """`tensor` resized for the parameter `name` of the module `owner`, or None where there is no meaningful way.

    channels: of the model's images. grid: of the position table; None: square, inferred from its rows.
    """
    shape = getattr(owner, name).shape
    if isinstance(owner, Learned) and name == "table":
        return resize_position(tensor, owner, grid)
    if isinstance(owner, Factorised) and tensor.ndim == 2 and tensor.shape[1] == shape[1]:
        return FittedTensor(
            resample_1d(tensor, shape[0]), f"{len(tensor)} positions along an axis to {shape[0]}, linear"
        )
    if isinstance(owner, RelativeBias) and name == "table":
        return resize_bias(tensor, owner)
    if isinstance(owner, RelativeAxes) and tensor.ndim == 2 and tensor.shape[1] == shape[1]:
        how = f"{len(tensor)} displacements along an axis to {shape[0]}, linear"
        return FittedTensor(resample_1d(tensor, shape[0]), how, exact=True)
    if isinstance(owner, Cascade | DistanceBias) and name == "attention_biases":
        return resize_distance_bias(tensor, owner)
    if isinstance(owner, nn.Conv2d) and name == "weight" and tensor.ndim == 4 and tensor.shape[0] == shape[0]:
        return resize_kernel(tensor, owner, channels)
    return None


def resize_position(table: Tensor, owner: Learned, grid: tuple[int, int] | None) -> FittedTensor | None:
    """A learned position table: rows of summary tokens are kept, those of the grid resampled."""
    if table.ndim != 2 or table.shape[1] != owner.table.shape[1]:
        return None
    split = split_tokens(len(table), owner.tokens, grid)
    if split is None:
        return None
    tokens, old = split
    rows, cells = table[:tokens], table[tokens:]
    steps = []
    if old != owner.grid:
        cells = owner.resampled(cells, old, owner.grid)
        steps.append(f"grid {old[0]}x{old[1]} to {owner.grid[0]}x{owner.grid[1]}, {owner.resampling}")
    if tokens == owner.tokens:
        return FittedTensor(cat([rows, cells]), "; ".join([*steps, f"{tokens} rows of tokens kept"]), not steps)
    if not tokens:  # the tokens had no rows, which equals rows of zeros
        zeros = cells.new_zeros(owner.tokens, cells.shape[1])
        return FittedTensor(cat([zeros, cells]), "; ".join([*steps, "zero rows for the tokens"]), not steps)
    if owner.tokens:
        return None
    return FittedTensor(cells, "; ".join([*steps, "the tokens' rows are added to the tokens"]), not steps, rows)


def split_tokens(rows: int, likely: int, grid: tuple[int, int] | None) -> tuple[int, tuple[int, int]] | None:
    """The number of rows of tokens in a table, and the grid of the other rows."""
    for tokens in dict.fromkeys((likely, *range(MOST_TOKENS + 1))):
        side = math.isqrt(max(0, rows - tokens))
        old = grid or (side, side)
        if rows > tokens and old[0] * old[1] == rows - tokens:
            return tokens, old
    return None


def relative_side(table: Tensor, owner: RelativeBias) -> int:
    """The side of the square window of a relative-bias table; 0 where it is of none."""
    extra = TOKEN_ROWS if owner.tokens else 0
    side = math.isqrt(max(0, len(table) - extra)) if table.ndim == 2 else 0
    return 0 if side % 2 == 0 or side * side != len(table) - extra else (side + 1) // 2


def resize_bias(table: Tensor, owner: RelativeBias) -> FittedTensor | None:
    """A relative-bias table of a square window: resampled over offsets; rows of tokens are kept."""
    side = relative_side(table, owner)
    if not side or table.shape[1] != owner.table.shape[1]:
        return None
    count = (2 * side - 1) ** 2
    cells = resample_bias(table[:count], (side, side), owner.grid)
    how = f"window {side}x{side} to {owner.grid[0]}x{owner.grid[1]}, bicubic"
    return FittedTensor(cat([cells, table[count:]]), how)


def resize_distance_bias(table: Tensor, owner: Cascade | DistanceBias) -> FittedTensor | None:
    """Biases [heads window^2] of vertical and horizontal distances, from a square window of another size: bicubic over
    distances, as the original does for its detectors."""
    side = math.isqrt(table.shape[1]) if table.ndim == 2 else 0
    if side == 0 or side * side != table.shape[1] or len(table) != len(owner.attention_biases):
        return None
    fitted = resample(table.T, (side, side), (owner.window, owner.window)).T.contiguous()
    return FittedTensor(fitted, f"window {side}x{side} to {owner.window}x{owner.window}, bicubic over distances")


def resize_kernel(weight: Tensor, owner: nn.Conv2d, channels: int) -> FittedTensor | None:
    """The kernel of the first convolution for other channels or another patch size."""
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
    """A kernel [D C kh kw] for `channels`: one channel gets the sum (a grey image then gives the output of three equal
    channels); several repeat the old ones, times old / new, so that the output keeps its scale."""
    old = weight.shape[1]
    if channels == 1:
        return weight.sum(1, keepdim=True)
    return weight[:, [i % old for i in range(channels)]] * (old / channels)


def to_patch(weight: Tensor, new: tuple[int, int]) -> Tensor:
    """A kernel for patches of another size: bicubic, because a kernel is a smooth image, with antialiasing for smaller
    patches; times old area / new area, so that a constant patch gives the same embedding as before."""
    area = weight.shape[2] * weight.shape[3] / (new[0] * new[1])
    return F.interpolate(weight.float(), size=new, mode="bicubic", antialias=True) * area
