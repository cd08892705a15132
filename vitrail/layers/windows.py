"""Attention inside the windows of a map, which every other block shifts by half a window so that neighbours meet.

Source: Swin (Liu et al. 2021), section 3.2. A map that windows do not divide is padded with zeros right and below, after whatever norm
precedes. As in the original detection and segmentation code and in torchvision, nothing tells a padded place from a real one: its keys
take part in attention, and what it gathers is cut off again. What is masked is only what the shift has brought together from opposite
edges. Where one window covers an axis of the map there is nothing to shift along that axis (transformers then stops shifting along both,
which differs on maps that are not square).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from vitrail.shapes import Float, Shaped

APART = -100.0  # added to the logits of places that are no neighbours; finite, as published weights were trained


def attend(
    attention: Callable[[Tensor, Tensor | None], Tensor], x: Float[Tensor, "B H W D"], window: tuple[int, int], shift: tuple[int, int]
) -> Float[Tensor, "B H W D"]:
    """`attention(windows [B*n N D], mask [n N N] or None)` inside every window of a map: [B H W D] -> [B H W D].

    `shift`: how far (down, across) the windows are moved; 0 leaves them straight.
    """
    height, width = x.shape[1:3]
    below, right = -height % window[0], -width % window[1]
    if below or right:
        x = F.pad(x, (0, 0, 0, right, 0, below))
    grid = (height + below, width + right)
    shift = (shift[0] if window[0] < grid[0] else 0, shift[1] if window[1] < grid[1] else 0)
    if not any(shift):
        return join(attention(cut(x, window), None), window, grid)[:, :height, :width]
    x = x.roll((-shift[0], -shift[1]), (1, 2))
    x = join(attention(cut(x, window), shift_mask(grid, window, shift, x)), window, grid)
    return x.roll(shift, (1, 2))[:, :height, :width]


def cut(x: Shaped[Tensor, "B H W D"], window: tuple[int, int]) -> Shaped[Tensor, "Bn N D"]:
    """A map that windows divide, as its windows in raster order: [B H W D] -> [B*n N D]."""
    x = x.unflatten(2, (-1, window[1])).unflatten(1, (-1, window[0]))  # [B H/h h W/w w D]
    return x.transpose(2, 3).flatten(3, 4).flatten(0, 2)


def join(x: Float[Tensor, "Bn N D"], window: tuple[int, int], grid: tuple[int, int]) -> Float[Tensor, "B H W D"]:
    """The way back from `cut` to a map of `grid` (height, width): [B*n N D] -> [B H W D]."""
    x = x.unflatten(0, (-1, grid[0] // window[0], grid[1] // window[1])).unflatten(3, window)  # [B H/h W/w h w D]
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def shift_mask(grid: tuple[int, int], window: tuple[int, int], shift: tuple[int, int], like: Tensor) -> Float[Tensor, "n N N"]:
    """What is added to the logits of a shifted map: 0 between neighbours, `APART` across what was an edge: [n N N]."""
    down, across = (crossed(*axis, like) for axis in zip(grid, window, shift, strict=True))
    part = cut((2 * down[:, None] + across)[None, :, :, None], window).squeeze(-1)  # [n N]
    return (part[:, :, None] != part[:, None, :]).to(like.dtype) * APART


def crossed(length: int, window: int, shift: int, like: Tensor) -> Tensor:
    """Along one axis: whether a place came over the edge, 0 or 1 [length]. Only the last window has any that did."""
    return (torch.arange(length, device=like.device) >= length - shift).long()


def with_mask(bias: Float[Tensor, "h N N"], mask: Float[Tensor, "n N N"] | None, windows: int) -> Float[Tensor, "*B h N N"]:
    """The relative bias [h N N] and a mask [n N N] as one, for `windows` = B*n of them: [h N N] or [B*n h N N]."""
    if mask is None:
        return bias
    return (bias + mask[:, None]).repeat(windows // mask.shape[0], 1, 1, 1)
