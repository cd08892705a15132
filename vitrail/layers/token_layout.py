"""Positions of the queries and keys of an attention on the image, in pixels, for tools that inspect attention."""

from typing import NamedTuple

import torch
from torch import Tensor

from vitrail.types import Grid, MergedGroups, TokenLayout


class Cells(NamedTuple):
    """The cells of a map: begin and end of each row [h 2] and each column [w 2], in pixels of the image."""

    rows: Tensor
    columns: Tensor

    @property
    def grid(self) -> Grid:
        return self.rows.shape[0], self.columns.shape[0]

    @property
    def extent(self) -> Grid:
        """Height and width in pixels, padded cells included."""
        return round(float(self.rows[-1, 1])), round(float(self.columns[-1, 1]))

    @property
    def centres(self) -> Tensor:
        """Of every cell in raster order, down and across: [h*w 2]."""
        return torch.cartesian_prod(self.rows.mean(1), self.columns.mean(1)).view(-1, 2)


class Side(NamedTuple):
    """The queries of an attention, or its keys: `leading` tokens without a position, the cells of one or more maps,
    `trailing` tokens without a position. The first `summaries` of the leading ones are summaries."""

    leading: int
    maps: tuple[Cells, ...]
    trailing: int = 0
    summaries: int = 0

    @property
    def tokens(self) -> int:
        return self.leading + self.cells + self.trailing

    @property
    def cells(self) -> int:
        return sum(cells.grid[0] * cells.grid[1] for cells in self.maps)

    @property
    def centres(self) -> Tensor:
        """Of all cells, [cells 2]."""
        return torch.cat([cells.centres for cells in self.maps]) if self.maps else torch.zeros(0, 2)


class AttentionLayout(NamedTuple):
    """Which queries [g n] of an image attend to which keys [g m], in g groups; -1 is padding, which is not on the
    image. merged: of tokens that are several of the queries and keys that are counted here."""

    queries: Side
    keys: Side
    query_index: Tensor
    key_index: Tensor
    merged: MergedGroups | None = None


def cells_of(grid: Grid, stride: tuple[float, float]) -> Cells:
    """Cells of one size, the first at the top left."""
    edges = []
    for count, step in zip(grid, stride, strict=True):
        begin = torch.arange(count) * float(step)
        edges.append(torch.stack([begin, begin + float(step)], dim=1))
    return Cells(*edges)


def side_of(layout: TokenLayout) -> Side:
    """The side of one sequence. Where images have different cells after patch dropout, it has no maps."""
    if layout.kept is not None or not all(layout.grid):
        return Side(layout.tokens, (), 0, layout.summaries)
    return Side(layout.leading, (cells_of(layout.grid, layout.stride),), layout.trailing, layout.summaries)


def side_of_maps(layouts: tuple[TokenLayout, ...]) -> Side:
    """The side of several concatenated maps, or of tokens without a position."""
    if len(layouts) == 1:
        return side_of(layouts[0])
    return Side(0, tuple(cells_of(one.grid, one.stride) for one in layouts))


def self_attention_layout(layout: TokenLayout) -> AttentionLayout:
    """Tokens that attend to each other, within their groups, each of which has the leading tokens. Merged ones are
    counted as the cells that they were."""
    side = side_of(layout._replace(merged=None))
    index = torch.arange(side.tokens)[None]
    if layout.groups is not None:
        cells = layout.groups.index(layout.grid)
        tokens = torch.arange(side.leading).expand(len(cells), -1)
        index = torch.cat([tokens, torch.where(cells < 0, cells, cells + side.leading)], dim=1)
    return AttentionLayout(side, side, index, index, layout.merged)


def cross_attention_layout(queries: Side, keys: Side) -> AttentionLayout:
    """Every query attends to every key."""
    return AttentionLayout(queries, keys, torch.arange(queries.tokens)[None], torch.arange(keys.tokens)[None])
