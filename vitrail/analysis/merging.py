"""Which patches of an image became one token, block by block, and an image with the groups painted over it."""

import colorsys
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from vitrail.analysis.hooks import ModelInputs, blocks_of, prepare_inputs, run_with_hooks
from vitrail.analysis.overlay import VisibleArea
from vitrail.data.encode import to_rgb
from vitrail.errors import UsageError
from vitrail.types import Grid, TokenLayout

STRENGTH = 0.6  # of the colours over an image
LEAST_SIDE = 384  # pixels of the shorter side of what is painted: borders need room
TURN = 0.618034  # of the colour circle from one group to the next: the golden ratio, so that no two are alike for long


class BlockGroups(NamedTuple):
    """The groups of patches after a block. groups: int64 [B h w], of each cell the first cell of its group, in raster
    order; a patch alone has its own number. tokens: how many groups there are."""

    name: str
    groups: Tensor
    tokens: int


def find_groups(model: nn.Module, images: ModelInputs) -> list[BlockGroups]:
    """The groups after every block of a model that merges tokens. Errors: `UsageError` for one that does not."""
    found: list[BlockGroups] = []

    def see(name: str, block: nn.Module, args: tuple, out: object) -> None:
        layout = out[-1] if isinstance(out, tuple) else None
        if isinstance(layout, TokenLayout):
            found.append(BlockGroups(name, first_cells(layout, len(args[0])), layout.cells))

    with torch.no_grad():
        run_with_hooks(model, prepare_inputs(model, images), blocks_of(model), see)
    if not found:
        raise UsageError("this model merges no tokens", "vitrail look RUN IMAGE... --merge 8")
    return found


def first_cells(layout: TokenLayout, batch: int) -> Tensor:
    """Of each cell the first of its group: [B h w]."""
    count = layout.grid[0] * layout.grid[1]
    cells = torch.arange(count).expand(batch, -1)
    if layout.merged is not None:
        tokens = layout.merged.tokens.cpu()
        first = torch.full((batch, layout.cells), count).scatter_reduce(1, tokens, cells, "amin")
        cells = first.gather(1, tokens)
    return cells.unflatten(1, layout.grid)


def paint_groups(image: np.ndarray, groups: Tensor, area: VisibleArea, covers: Grid) -> np.ndarray:
    """Groups of patches [h w] over an image uint8 [H W C], in colours and with borders, patches alone as they are:
    uint8 [H' W' 3], whole times as large where the image is small. covers: see `compute_extent`."""
    times = -(-LEAST_SIDE // min(image.shape[:2]))
    large = to_rgb(image).repeat(times, 0).repeat(times, 1)
    rows, columns = (slice(part.start * times, part.stop * times) for part in (area.rows, area.columns))
    part = large[rows, columns].astype(np.float32)
    places = [
        ((np.arange(side) + 0.5) / side * canvas * cells / covered).astype(int).clip(max=cells - 1)
        for side, canvas, cells, covered in zip(part.shape[:2], area.canvas, groups.shape, covers, strict=True)
    ]
    numbers = groups.numpy()[places[0]][:, places[1]]  # the group of every pixel
    sizes = np.bincount(groups.flatten().numpy(), minlength=groups.numel())
    colours = np.array([colour_of(i) for i in range(groups.numel())], np.float32)
    tint = STRENGTH * (sizes[numbers] > 1)[:, :, None]
    part = (1 - tint) * part + tint * colours[numbers]
    edges = borders(numbers, max(2, min(part.shape[:2]) // 110))
    part[edges] = 255.0
    large[rows, columns] = np.rint(part)
    return large


def colour_of(number: int) -> tuple[float, float, float]:
    """A colour of a group, by its first cell: the same after every block."""
    r, g, b = colorsys.hsv_to_rgb(number * TURN % 1, 0.6 + 0.4 * (number * TURN * 7 % 1), 1.0)
    return 255 * r, 255 * g, 255 * b


def borders(numbers: np.ndarray, thickness: int) -> np.ndarray:
    """Pixels beside those of another group: bool [H W]."""
    edges = np.zeros(numbers.shape, bool)
    for step in range(1, thickness + 1):  # half of it on either side
        low, high = (step - 1) // 2, step - (step - 1) // 2
        down, across = numbers[:-step] != numbers[step:], numbers[:, :-step] != numbers[:, step:]
        edges[low : low + len(down)] |= down
        edges[:, low : low + across.shape[1]] |= across
        edges[high : high + len(down)] |= down
        edges[:, high : high + across.shape[1]] |= across
    return edges
