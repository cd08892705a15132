"""Attention inside the windows of a map, shifted by half a window in every other block.

Source: Swin (Liu et al. 2021), section 3.2. A map that is not divisible into windows is padded with zeros right and
below, after the norm. As in the original detection and segmentation code and in torchvision, padding is not masked: its
keys take part in attention, and its outputs are cropped. Only pairs from opposite edges that the shift puts into one
window are masked. Where one window covers an axis of the map there is no shift along that axis (transformers then does
not shift along either axis, which differs on maps that are not square).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.errors import UsageError
from vitrail.layers.attention import Attention
from vitrail.shapes import Float, Shaped
from vitrail.types import Grid, Groups, TokenLayout

GLOBAL = 4  # blocks that attend to the whole image, by default, and at most a third of all
APART = -100.0  # added to the logits of cells that are not neighbours; finite, as published weights were trained


@dataclass(frozen=True)
class Windows(Groups):
    """Windows of a size (height, width) side by side, shifted by `shift` (down, across); 0 is no shift."""

    size: Grid
    shift: Grid = (0, 0)

    def index(self, grid: Grid) -> Tensor:
        numbers = torch.arange(1, grid[0] * grid[1] + 1, device="cpu").view(1, *grid, 1)
        x = pad_to_windows(numbers, self.size)
        down, across = self.shift_on((x.shape[1], x.shape[2]))
        return partition_windows(x.roll((-down, -across), (1, 2)), self.size).squeeze(-1) - 1

    def shift_on(self, grid: Grid) -> Grid:
        """The shift on a padded map."""
        return self.shift[0] if self.size[0] < grid[0] else 0, self.shift[1] if self.size[1] < grid[1] else 0


def attend_windows(attention: Attention, x: Tensor, layout: TokenLayout, windows: Windows) -> Tensor:
    """`attention(windows [B*n N D], mask [n N N] or None, layout)` inside every window of a map: [B H W D] -> [B H W
    D]."""
    height, width = x.shape[1:3]
    window = windows.size
    x = pad_to_windows(x, window)
    grid = (x.shape[1], x.shape[2])
    shift = windows.shift_on(grid)
    inside = TokenLayout(layout.grid, layout.stride, groups=windows)
    if not any(shift):
        return merge_windows(attention(partition_windows(x, window), None, inside), window, grid)[:, :height, :width]
    x = x.roll((-shift[0], -shift[1]), (1, 2))
    x = merge_windows(attention(partition_windows(x, window), shift_mask(grid, window, shift, x), inside), window, grid)
    return x.roll(shift, (1, 2))[:, :height, :width]


def attend_tokens(attention: nn.Module, x: Tensor, layout: TokenLayout, windows: Windows | None) -> Tensor:
    """`attention(sequences [B*n T+N D], layout)` inside every window of a sequence of T leading tokens and the cells of
    a grid: [B T+HW D] -> [B T+HW D]. The leading tokens join every window, and become the mean of what they become
    there (ViTDet, Li et al. 2022, has none). Where the grid is smaller than a window, the window is the grid; without
    windows all attend to each other."""
    (height, width), leading = layout.grid, layout.leading
    size = layout.grid if windows is None else (min(windows.size[0], height), min(windows.size[1], width))
    if size == layout.grid:
        whole: Tensor = attention(x, layout)
        return whole
    cells = pad_to_windows(x[:, leading:].unflatten(1, layout.grid), size)
    grid, parts = (cells.shape[1], cells.shape[2]), partition_windows(cells, size)
    count = (grid[0] // size[0]) * (grid[1] // size[1])
    tokens = x[:, :leading].repeat_interleave(count, 0)
    out: Tensor = attention(torch.cat([tokens, parts], dim=1), layout._replace(groups=Windows(size)))
    merged = merge_windows(out[:, leading:], size, grid)[:, :height, :width].flatten(1, 2)
    return torch.cat([out[:, :leading].unflatten(0, (-1, count)).mean(1), merged], dim=1) if leading else merged


def local_depths(window: int, depths: Sequence[int], depth: int) -> list[int]:
    """The numbers of the blocks that attend in windows, from 1 on: all but the global ones `depths`; by default these
    are four, evenly spread, the last block among them (ViTDet, section 3), and fewer of less than twelve blocks.
    Errors: `UsageError` for blocks that there are not."""
    if depths and not 1 <= min(depths) <= max(depths) <= depth:
        text = " ".join(map(str, depths))
        raise UsageError(f"global_blocks is {text}, and there are {depth} blocks", f"use numbers of 1 to {depth}")
    if depths and not window:
        raise UsageError("global_blocks without window: all blocks are global", "give window, such as 14")
    count = min(GLOBAL, max(1, depth // 3))
    chosen = set(depths) or {round(depth * (i + 1) / count) for i in range(count)}
    return [number for number in range(1, depth + 1) if number not in chosen] if window else []


def pad_to_windows(x: Tensor, window: Grid) -> Tensor:
    """A map [B H W D] padded with zeros right and below to whole windows."""
    below, right = -x.shape[1] % window[0], -x.shape[2] % window[1]
    return F.pad(x, (0, 0, 0, right, 0, below)) if below or right else x


def partition_windows(x: Tensor, window: tuple[int, int]) -> Tensor:
    """A map of whole windows, as its windows in raster order: [B H W D] -> [B*n N D]."""
    x = x.unflatten(2, (-1, window[1])).unflatten(1, (-1, window[0]))  # [B H/h h W/w w D]
    return x.transpose(2, 3).flatten(3, 4).flatten(0, 2)


def merge_windows(
    x: Shaped[Tensor, "Bn N D"], window: tuple[int, int], grid: tuple[int, int]
) -> Shaped[Tensor, "B H W D"]:
    """The inverse of `partition_windows`, to a map of `grid` (height, width): [B*n N D] -> [B H W D]."""
    x = x.unflatten(0, (-1, grid[0] // window[0], grid[1] // window[1])).unflatten(3, window)  # [B H/h W/w h w D]
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def shift_mask(
    grid: tuple[int, int], window: tuple[int, int], shift: tuple[int, int], like: Tensor
) -> Float[Tensor, "n N N"]:
    """The mask added to the logits of a shifted map: 0 between neighbours, `APART` across an edge of the map: [n N
    N]."""
    down, across = (crossing_mask(*axis, like) for axis in zip(grid, window, shift, strict=True))
    part = partition_windows((2 * down[:, None] + across)[None, :, :, None], window).squeeze(-1)  # [n N]
    return (part[:, :, None] != part[:, None, :]).to(like.dtype) * APART


def crossing_mask(length: int, window: int, shift: int, like: Tensor) -> Tensor:
    """Along one axis: whether a cell wrapped around the edge, 0 or 1 [length]; only in the last window."""
    return (torch.arange(length, device=like.device) >= length - shift).long()


def add_mask(
    bias: Float[Tensor, "h N N"], mask: Float[Tensor, "n N N"] | None, windows: int
) -> Float[Tensor, "*B h N N"]:
    """The sum of the relative bias [h N N] and a mask [n N N], for `windows` = B*n of them: [h N N] or [B*n h N N]."""
    if mask is None:
        return bias
    return (bias + mask[:, None]).repeat(windows // mask.shape[0], 1, 1, 1)
