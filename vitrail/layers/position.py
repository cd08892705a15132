"""Absolute position encodings: a vector per position of the grid, added to the patch or concatenated to it.

Every module works with patches [B h w D] on any grid, not only the one it was built for: learned tables are resampled,
sines recomputed. Four encodings are called sin-cos; they are not interchangeable, and published weights need the one
they were trained with.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from vitrail.errors import UsageError, choose
from vitrail.layers.resample import Resampling as Resampling  # of the tables here
from vitrail.layers.resample import resample_1d, resample_as
from vitrail.shapes import Float
from vitrail.types import Grid, is_free

ORDERS = ("mae", "big_vision", "sum")
INITS = ("normal", "xavier")
SINCOS = {"sincos1d": "1d", "sincos2d": "mae", "sincos2d_bv": "big_vision", "sincos2d_sum": "sum"}  # kinds of `SinCos`


def sincos_1d(count: int, width: int) -> Float[Tensor, "{count} {width}"]:
    """Sines, then cosines, of the positions 0..count-1: [count width], float32.

    omega_k = 10000^(-k/(width/2)), as in "Attention Is All You Need" (Vaswani et al. 2017, section 3.5), but all sines
    before all cosines.
    """
    check_width(width, 2, "a 1-D sin-cos encoding")
    return _waves(_places(count), width // 2, width // 2).float()


def sincos_2d(grid: tuple[int, int], width: int, order: str = "mae") -> Float[Tensor, "N {width}"]:
    """Sin-cos of the column x and row y of every cell in raster order: [h*w width], float32, computed in float64.

    "mae"         [sin x, cos x, sin y, cos y], omega_k = 10000^(-k/(D/4)): MAE (He et al. 2021), also DiT and JiT.
    "big_vision"  the same layout, omega_k = 10000^(-k/(D/4-1)), the lowest is exactly 1e-4: google-research/big_vision.
    "sum"         the full-width 1-D encoding of y plus that of x.
    """
    h, w = grid
    choose(order, ORDERS, "order of a 2-D sin-cos encoding")
    # not repeat_interleave, which ONNX files get wrong for a free size
    y, x = _places(h)[:, None].expand(h, w).flatten(), _places(w).expand(h, w).flatten()  # [h*w] each
    if order == "sum":
        check_width(width, 2, "a summed 2-D sin-cos encoding")
        return (_waves(y, width // 2, width // 2) + _waves(x, width // 2, width // 2)).float()
    check_width(width, 4, "a 2-D sin-cos encoding", least=8 if order == "big_vision" else 4)
    bands = width // 4
    span = bands - 1 if order == "big_vision" else bands
    return torch.cat([_waves(x, bands, span), _waves(y, bands, span)], dim=1).float()


def check_width(width: int, step: int, who: str, least: int = 0) -> None:
    """Errors: `UsageError` with the nearest valid widths, unless `width` is a positive multiple of `step`, at least
    `least`."""
    least = max(step, least)
    if width % step or width < least:
        near = sorted({max(width // step * step, least), max(-(-width // step) * step, least)})
        bound = f" and at least {least}" if least > step else ""
        raise UsageError(
            f"{who} needs a width divisible by {step}{bound}, not {width}",
            f"use {' or '.join(map(str, near))}",
        )


def _places(count: int) -> Tensor:
    # float64 exists on every CPU, not on every accelerator
    return torch.arange(count, dtype=torch.float64, device="cpu")


def _waves(places: Tensor, bands: int, span: int) -> Tensor:
    omega = 10000.0 ** (-_places(bands) / span)
    angles = places[:, None] * omega  # [n bands]
    return torch.cat([angles.sin(), angles.cos()], dim=1)  # [n 2*bands]


class Position(nn.Module, ABC):
    """Adds a position encoding to every patch: `encoding(grid)`, in the dtype and on the device of the table."""

    grid: Grid  # of the images that the model was built for

    @abstractmethod
    def encoding(self, grid: tuple[int, int]) -> Float[Tensor, "N D"]:
        """One row per cell in raster order: [h*w D]."""

    def forward(self, patches: Float[Tensor, "B h w D"]) -> Float[Tensor, "B h w D"]:
        h, w = patches.shape[1:3]
        place: Tensor = self.encoding((h, w)).unflatten(0, (h, w))
        return patches + place  # [B h w D]


class Learned(Position):
    """A learned vector per cell: ViT (Dosovitskiy et al. 2020). On another grid the table is resampled (`resample_as`).

    `tokens` rows before those of the grid belong to the summary tokens; they are not added here, see `token_rows`.
    init: "normal" is a truncated normal of 0.02, "xavier" is Xavier-uniform over the matrix [rows D].
    """

    def __init__(
        self,
        grid: tuple[int, int],
        width: int,
        tokens: int = 0,
        init: str = "normal",
        resampling: Resampling = "bicubic",
    ):
        super().__init__()
        self.grid, self.tokens, self.resampling = (grid[0], grid[1]), tokens, resampling
        # two axes, so that it counts as a matrix
        self.table = nn.Parameter(torch.empty(tokens + grid[0] * grid[1], width))
        _fill(self.table, init)

    @property
    def token_rows(self) -> Tensor:
        """The encodings of the summary tokens: [tokens D]."""
        return self.table[: self.tokens]

    def encoding(self, grid: tuple[int, int]) -> Tensor:
        return self.resampled(self.table[self.tokens :], self.grid, grid)

    def resampled(self, cells: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
        """Rows of cells [h*w D] for another grid: [h'*w' D]."""
        return resample_as(self.resampling, cells, old, new)


class SinCos(Position):
    """Sines and cosines, nothing learned; `kind` is "1d" (of the raster index) or one of the orders of `sincos_2d`."""

    table: Tensor

    def __init__(self, grid: tuple[int, int], width: int, kind: str = "mae"):
        super().__init__()
        self.grid, self.width = (grid[0], grid[1]), width
        self.kind = choose(kind, ("1d", *ORDERS), "kind of sin-cos encoding")
        table = self._compute(self.grid).to(torch.get_default_device())  # like the model's parameters
        self.register_buffer("table", table, persistent=False)

    def encoding(self, grid: tuple[int, int]) -> Tensor:
        own = not is_free(*grid) and tuple(grid) == self.grid
        return self.table if own else self._compute(grid).to(self.table)

    def _compute(self, grid: tuple[int, int]) -> Tensor:
        return sincos_1d(grid[0] * grid[1], self.width) if self.kind == "1d" else sincos_2d(grid, self.width, self.kind)


class Factorised(Position):
    """A learned vector per row plus one per column: NaViT (Dehghani et al. 2023, section 2.1). Other grids are
    resampled, linear.

    init: as `Learned`, each axis a matrix of its own.
    """

    def __init__(self, grid: tuple[int, int], width: int, init: str = "normal"):
        super().__init__()
        self.grid = (grid[0], grid[1])
        self.rows = nn.Parameter(torch.empty(grid[0], width))
        self.columns = nn.Parameter(torch.empty(grid[1], width))
        _fill(self.rows, init)
        _fill(self.columns, init)

    def encoding(self, grid: tuple[int, int]) -> Tensor:
        rows, columns = resample_1d(self.rows, grid[0]), resample_1d(self.columns, grid[1])
        return (rows[:, None] + columns).flatten(0, 1)  # [h w D] -> [h*w D]


class Concatenate(nn.Module):
    """The encoding concatenated to the patches instead of added to them, and both projected back to `width`."""

    def __init__(self, position: Position, width: int):
        super().__init__()
        self.position = position
        self.proj = nn.Linear(2 * width, width)

    def encoding(self, grid: tuple[int, int]) -> Float[Tensor, "N D"]:
        """One row per cell in raster order, before the projection: [h*w D]."""
        return self.position.encoding(grid)

    def forward(self, patches: Float[Tensor, "B h w D"]) -> Float[Tensor, "B h w D"]:
        h, w = patches.shape[1:3]
        place = self.encoding((h, w)).unflatten(0, (h, w)).expand_as(patches)
        joined: Tensor = self.proj(torch.cat([patches, place], dim=-1))  # [B h w 2D] -> [B h w D]
        return joined


def concatenate(table: Position | None, kind: str, width: int) -> Concatenate:
    """`table` concatenated to the patches. Errors: `UsageError` for a kind of position that is no table."""
    if table is None:
        what = f"position {kind!r} is not a table, so there is nothing to concatenate"
        raise UsageError(what, "use learned or sincos")
    return Concatenate(table, width)


def _fill(table: nn.Parameter, init: str) -> None:
    if choose(init, INITS, "initialisation of a position table") == "xavier":
        nn.init.xavier_uniform_(table)
    else:
        nn.init.trunc_normal_(table, std=0.02)


def build_position(
    kind: str, grid: Grid, width: int, tokens: int, init: str, resampling: Resampling
) -> Position | None:
    """The absolute encoding of that kind; None for kinds that are not absolute."""
    if kind in ("learned", "learned_rope"):
        return Learned(grid, width, tokens, init, resampling)
    if kind == "factorised":
        return Factorised(grid, width, init)
    return SinCos(grid, width, SINCOS[kind]) if kind in SINCOS else None
