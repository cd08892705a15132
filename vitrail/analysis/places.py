"""Where on the picture the tokens of an attention are, told from the shapes of what it and the modules around it were given.

Attention itself knows no places: it may run inside windows of a map that was padded and rolled, on every second pixel, over keys that
each stand for many cells, or across two maps.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any, NamedTuple, TypeGuard, cast

import torch
from torch import Tensor, nn

from vitrail.errors import UsageError
from vitrail.heads.looking import Memory
from vitrail.layers.patch import grid_of
from vitrail.layers.windows import attend

Grid = tuple[int, int]  # (height, width) in cells, or (down, across)


class Cells(NamedTuple):
    """The cells of a map: where each row [h 2] and each column [w 2] begins and ends, in pixels of the picture."""

    rows: Tensor
    columns: Tensor

    @property
    def grid(self) -> Grid:
        return len(self.rows), len(self.columns)

    @property
    def extent(self) -> Grid:
        """Height and width in pixels, that of padded cells included."""
        return round(float(self.rows[-1, 1])), round(float(self.columns[-1, 1]))

    @property
    def centres(self) -> Tensor:
        """Of every cell in raster order, down and across: [h*w 2]."""
        return torch.cartesian_prod(self.rows.mean(1), self.columns.mean(1)).view(-1, 2)


class Side(NamedTuple):
    """The queries of an attention, or its keys: `leading` tokens that have no place, then the cells of one or more maps."""

    leading: int
    maps: tuple[Cells, ...]

    @property
    def tokens(self) -> int:
        return self.leading + sum(cells.grid[0] * cells.grid[1] for cells in self.maps)

    @property
    def centres(self) -> Tensor:
        """Of all cells, [N - leading 2]."""
        return torch.cat([cells.centres for cells in self.maps]) if self.maps else torch.zeros(0, 2)


class Layout(NamedTuple):
    """Which queries [g n] of a picture look at which keys [g m], in g groups; -1 is padding, which is not on the picture."""

    queries: Side
    keys: Side
    query_index: Tensor
    key_index: Tensor


@dataclass(frozen=True)
class Around:
    """What is known where an attention is called."""

    batch: int
    size: Grid  # of the pictures
    strides: tuple[int, ...]  # of maps that the model has
    given: Sequence[tuple[nn.Module, tuple]]  # the modules that are running, the innermost last, and their arguments

    def cells(self, grid: Grid) -> Cells:
        """A map of the whole picture. Cells are as wide as a stride that gives so many of them, or share the picture evenly."""
        edges = []
        for count, length in zip(grid, self.size, strict=True):
            step = next((float(s) for s in self.strides if -(-length // s) == count), length / count)
            begin = torch.arange(count) * step
            edges.append(torch.stack([begin, begin + step], dim=1))
        return Cells(*edges)

    def likely(self, grid: Grid) -> bool:
        """Whether a grid may cover the picture: no more cells than pixels, none more than twice as long as wide."""
        down, across = (length / count for length, count in zip(self.size, grid, strict=True))
        return min(down, across) >= 1 and max(down, across) <= 2 * min(down, across)


def strides_of(model: nn.Module) -> tuple[int, ...]:
    """The strides that a backbone declares, and its patches."""
    patch = getattr(getattr(model, "config", None), "patch", ())
    return (*getattr(model, "strides", ()), *(patch if isinstance(patch, tuple) else (patch,)))


def layout(module: nn.Module, args: tuple, shape: Sequence[int], around: Around) -> Layout:
    """The places of weights [groups*B h n m], which `module` makes of `args`."""
    groups, n, m = shape[0] // around.batch, shape[2], shape[3]
    windows = in_windows(args[0], around)
    if windows is not None:
        return windows
    grid = next((a for a in args[1:] if is_grid(a)), None)
    if groups > 1:
        if grid is None or isqrt(groups) ** 2 != groups or n != grid[0] * grid[1]:
            raise UsageError(f"it cannot be told how {groups} sequences of {n} tokens cover the picture", "look at other layers")
        return unfolded(grid, isqrt(groups), around)
    if grid is not None and around.likely(grid) and n >= grid[0] * grid[1]:
        queries = Side(n - grid[0] * grid[1], (around.cells(grid),))
        keys = queries if m == n else Side(0, (reduced(module, queries.maps[0]),))
    elif grid is not None:  # a row of whatever there is, as heads put classes behind the cells
        queries, keys = Side(n, ()), Side(m, ())
    elif (memory := next((a for _, given in around.given for a in given if isinstance(a, Memory)), None)) is not None:
        keys = Side(0, tuple(around.cells((r.shape[-1], c.shape[-1])) for r, c in zip(memory.rows, memory.columns, strict=True)))
        keys = keys if any(a is memory.values for a in args) else Side(m, ())  # decoders look at their own queries too
        queries = keys if args[0] is args[1] and keys.maps else Side(n, ())
    else:
        queries, keys = told(n, around), told(m, around)
    if keys.tokens != m:
        keys = Side(m, ())
    return Layout(queries, keys, torch.arange(n)[None], torch.arange(m)[None])


def is_grid(value: Any) -> TypeGuard[Grid]:
    return isinstance(value, tuple) and len(value) == 2 and all(isinstance(n, int) for n in value)


def in_windows(x: Tensor, around: Around) -> Layout | None:
    """The places of windows, if a module around was given a map to cut: [B H W D], and it says its window and shift; or [B D H W],
    and so is every window."""
    for owner, given in reversed(around.given):
        if not given or not isinstance(given[0], Tensor) or given[0].ndim != 4 or len(given[0]) != around.batch:
            continue
        if hasattr(owner, "shift") and hasattr(owner, "window"):
            grid, window, shift = given[0].shape[1:3], owner.window, owner.shift
        elif x.ndim == 4:
            grid, window, shift = given[0].shape[2:], tuple(x.shape[2:]), (0, 0)
        else:
            continue
        index = window_places((grid[0], grid[1]), cast(Grid, window), cast(Grid, shift))
        side = Side(0, (around.cells((grid[0], grid[1])),))
        return Layout(side, side, index, index)
    return None


def window_places(grid: Grid, window: Grid, shift: Grid) -> Tensor:
    """Which cell of the map stands at each place of each window, -1 for padding: [n N]. Found by sending their numbers the way
    that the model sends its cells."""
    numbers = torch.arange(1, grid[0] * grid[1] + 1, dtype=torch.float64, device="cpu").view(1, *grid, 1)
    seen = []

    def catch(x: Tensor, mask: Tensor | None) -> Tensor:
        seen.append(x[..., 0])
        return x

    attend(cast(Any, catch), numbers, window, shift)
    return seen[0].long() - 1


def unfolded(grid: Grid, patch: int, around: Around) -> Layout:
    """Of sequences that each hold the pixels at one place of every patch."""
    h, w = grid
    places = torch.arange(h * w * patch * patch).view(h, patch, w, patch).permute(1, 3, 0, 2).flatten(2).flatten(0, 1)
    side = Side(0, (around.cells((h * patch, w * patch)),))
    return Layout(side, side, places, places)


def reduced(module: nn.Module, cells: Cells) -> Cells:
    """The cells that keys stand for: `reduction` x `reduction` of the queries' each, what is over left out; or `pool` x `pool`
    shares of the map."""
    edges = []
    pool, step = getattr(module, "pool", None), getattr(module, "reduction", 1)
    for axis, along in enumerate(cells):
        n = len(along)
        if isinstance(pool, nn.AdaptiveAvgPool2d):
            size: Any = pool.output_size
            p = size if isinstance(size, int) else size[axis]
            spans = [(i * n // p, -(-(i + 1) * n // p)) for i in range(p)]
        else:
            spans = [(i * step, min(n, (i + 1) * step)) for i in range(max(1, n // step))]
        edges.append(torch.stack([torch.stack([along[first, 0], along[last - 1, 1]]) for first, last in spans]))
    return Cells(*edges)


def told(count: int, around: Around) -> Side:
    """The places of `count` tokens, where nothing at the attention says them: the largest grid that fits, of those that modules around
    were given or the strides imply. No map where none fits."""
    given = [g for _, args in around.given for g in grids_in(args)]
    grids = given or [grid_of(around.size, (s, s)) for s in around.strides]
    fitting = [g for g in grids if g[0] * g[1] <= count <= 2 * g[0] * g[1]]
    if not fitting:
        return Side(count, ())
    grid = max(fitting, key=lambda g: g[0] * g[1])
    return Side(count - grid[0] * grid[1], (around.cells(grid),))


def grids_in(value: Any) -> Iterator[Grid]:
    """All grids in a list or tuple and what is in it."""
    if is_grid(value):
        yield value
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from grids_in(inner)


def overlap(new: Tensor, old: Tensor) -> Tensor:
    """Which share of each new interval [n 2] lies in each old one [m 2], rows summing to one: [n m]."""
    shared = (torch.minimum(new[:, None, 1], old[:, 1]) - torch.maximum(new[:, None, 0], old[:, 0])).clamp(min=0)
    return shared / shared.sum(1, keepdim=True).clamp(min=1e-9)
