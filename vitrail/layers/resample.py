"""Resampling of position tables from one grid to another. The old grid is an argument, not inferred from the rows.

Kernels differ between code bases by more than rounding (PyTorch's antialiased cubic kernel differs from its plain one,
even for upsampling), so published weights resized to a new resolution reproduce published numbers only with the same
`mode` and `antialias`.
"""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from vitrail.errors import UsageError, choose
from vitrail.shapes import Float
from vitrail.types import is_free

MODES = ("bicubic", "bilinear")
Resampling = Literal["bicubic", "antialias", "dino", "plain_bilinear", "antialias_bilinear"]
RESAMPLINGS = get_args(Resampling)


def resample(
    table: Float[Tensor, "N D"],
    old: tuple[int, int],
    new: tuple[int, int],
    mode: str = "bicubic",
    antialias: bool = False,
) -> Float[Tensor, "M D"]:
    """A table of one row per cell, [h*w D] in raster order over `old`, at the cells of `new`: [h'*w' D].

    Pixel centres are aligned, not corners. Computed in float32 (float64 if the table is), returned in the table's
    dtype. Returns the same tensor when the grids are equal. Errors: `UsageError` when the number of rows does not match
    `old`.
    """
    choose(mode, MODES, "resampling mode")
    if table.shape[0] != old[0] * old[1]:
        raise UsageError(
            f"a table of {table.shape[0]} rows does not match a grid of {old[0]}x{old[1]} = {old[0] * old[1]} cells",
            "pass the grid (height, width) of the table, without the rows of class tokens",
        )
    if not is_free(*new) and tuple(old) == tuple(new):
        return table
    plane = _exact(table).unflatten(0, old).permute(2, 0, 1)[None]  # [1 D h w]
    plane = F.interpolate(plane, size=tuple(new), mode=mode, align_corners=False, antialias=antialias)
    return plane[0].flatten(1).T.to(table.dtype)  # [h'*w' D]


def resample_as(
    kind: Resampling, table: Float[Tensor, "N D"], old: tuple[int, int], new: tuple[int, int]
) -> Float[Tensor, "M D"]:
    """`resample` as published weights need it: "bicubic" (DeiT, transformers), "antialias" (timm; DINOv2 with
    registers), "plain_bilinear" (Segmenter), "antialias_bilinear" (SigLIP 2 for images of any shape), or "dino" (DINO
    and DINOv2 without registers: bicubic with scale (new + 0.1) / old, which shifts every position a little)."""
    choose(kind, RESAMPLINGS, "kind of resampling")
    if kind != "dino" or tuple(old) == tuple(new):
        mode = "bilinear" if kind.endswith("bilinear") else "bicubic"
        return resample(table, old, new, mode, antialias=kind.startswith("antialias"))
    plane = _exact(table).unflatten(0, old).permute(2, 0, 1)[None]  # [1 D h w]
    scale = ((new[0] + 0.1) / old[0], (new[1] + 0.1) / old[1])
    plane = F.interpolate(plane, scale_factor=scale, mode="bicubic", align_corners=False)
    return plane[0].flatten(1).T.to(table.dtype)  # [h'*w' D]


def resample_bias(table: Float[Tensor, "N D"], old: tuple[int, int], new: tuple[int, int]) -> Float[Tensor, "M D"]:
    """A relative-bias table [(2h-1)(2w-1) heads] of the window `old`, for the window `new`: bicubic over the plane of
    displacements."""
    return resample(table, displacements(old), displacements(new))


def resample_1d(table: Float[Tensor, "N D"], new: int) -> Float[Tensor, "{new} D"]:
    """The table of one axis, [n D], resampled to `new` positions: [n' D], linear. The same tensor when n' = n."""
    if not is_free(new) and table.shape[0] == new:
        return table
    line = F.interpolate(_exact(table).T[None], size=new, mode="linear", align_corners=False)
    return line[0].T.contiguous().to(table.dtype)


def displacements(window: tuple[int, int]) -> tuple[int, int]:
    """The number of different displacements of two cells of a window, down and across: (2h-1, 2w-1)."""
    return 2 * window[0] - 1, 2 * window[1] - 1


def _exact(table: Tensor) -> Tensor:
    return table if table.dtype == torch.float64 else table.float()
