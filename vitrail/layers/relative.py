"""Relative position bias: one learned number per head and displacement of two cells, added to the attention logits.

Source: Swin (Liu et al. 2021), section 3.2; the rows for tokens without a position are those of BEiT (Bao et al. 2021).
"""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.layers.resample import displacements, resample_bias
from vitrail.shapes import Float

TOKEN_ROWS = 3  # token -> patch, patch -> token, token -> token


class Displacements(nn.Module, ABC):
    """A bias per head on the logits of two cells that depends on their displacement alone."""

    @abstractmethod
    def by_displacement(self) -> Tensor:
        """The bias by displacement of the key from the query: [heads 2h-1 2w-1]."""


class RelativeBias(Displacements):
    """A bias [heads N N] for N = tokens + h*w tokens in raster order, the tokens without a position first. `table` is
    [(2h-1)(2w-1) heads], and with tokens three rows more at its end: token to patch, patch to token, token to token;
    all tokens share them. On another grid the displacements are resampled, bicubic.
    """

    index: Tensor

    def __init__(self, grid: tuple[int, int], heads: int, tokens: int = 0):
        super().__init__()
        self.grid, self.tokens = (grid[0], grid[1]), tokens
        down, across = displacements(grid)
        self.table = nn.Parameter(torch.empty(down * across + (TOKEN_ROWS if tokens else 0), heads))
        nn.init.trunc_normal_(self.table, std=0.02)
        self.register_buffer("index", _with_tokens(self.grid, tokens), persistent=False)

    def forward(self, grid: tuple[int, int] | None = None) -> Float[Tensor, "h N N"]:
        """The bias for `grid`, by default the one it was built for: [heads N N], queries down, keys across."""
        if grid is None or tuple(grid) == self.grid:
            bias = self.table[self.index]
        else:
            bias = self._table_for(grid)[_with_tokens(grid, self.tokens, self.table.device)]
        return bias.permute(2, 0, 1).contiguous()  # [N N heads] -> [heads N N]

    def by_displacement(self) -> Tensor:
        return displacement_map(self.table, self.grid)

    def _table_for(self, grid: tuple[int, int]) -> Tensor:
        if not self.tokens:
            return resample_bias(self.table, self.grid, grid)
        cells, rest = self.table[:-TOKEN_ROWS], self.table[-TOKEN_ROWS:]
        return torch.cat([resample_bias(cells, self.grid, grid), rest])


class LogBias(Displacements):
    """A bias [heads N N] as `RelativeBias` has it, but computed by linear, ReLU, linear from the logarithm of the
    displacement, so that one set of weights serves every grid: the relative-position ViTs of timm, after Swin V2 (Liu
    et al. 2021, section 3.3). Tokens without a position have none. Its weights are plain parameters, not linear layers,
    so that weight decay excludes them.
    """

    index: Tensor

    def __init__(self, grid: tuple[int, int], heads: int, tokens: int = 0, hidden: int = 128):
        super().__init__()
        self.grid, self.tokens = (grid[0], grid[1]), tokens
        self.weight1, self.bias1 = nn.Parameter(torch.empty(hidden, 2)), nn.Parameter(torch.zeros(hidden))
        self.weight2, self.bias2 = nn.Parameter(torch.empty(heads, hidden)), nn.Parameter(torch.zeros(heads))
        nn.init.trunc_normal_(self.weight1, std=0.02)
        nn.init.trunc_normal_(self.weight2, std=0.02)
        self.register_buffer("index", relative_index(self.grid), persistent=False)

    def forward(self, grid: tuple[int, int] | None = None) -> Float[Tensor, "h N N"]:
        at = self.grid if grid is None else (grid[0], grid[1])
        index = self.index if at == self.grid else relative_index(at, self.index.device)
        bias = self.rows(at)[index].permute(2, 0, 1)  # [heads hw hw]
        return F.pad(bias, (self.tokens, 0, self.tokens, 0)).contiguous()

    def rows(self, grid: tuple[int, int]) -> Tensor:
        """The bias of every displacement of a query from a key: [(2h-1)(2w-1) heads]."""
        y, x = (torch.arange(1 - n, n, dtype=self.weight1.dtype, device=self.weight1.device) for n in grid)
        places = torch.cartesian_prod(*(t.sign() * t.abs().log1p() for t in (y, x)))
        return F.linear(F.linear(places, self.weight1, self.bias1).relu(), self.weight2, self.bias2)

    def by_displacement(self) -> Tensor:
        return displacement_map(self.rows(self.grid), self.grid)


class CausalBias(nn.Module):
    """The mask of a sequence of which each token attends to itself and those before it: [N N], 0 or minus infinity."""

    table: Tensor

    def __init__(self, tokens: int):
        """tokens: the most that a sequence has."""
        super().__init__()
        above = torch.full((tokens, tokens), float("-inf")).triu(1)
        self.register_buffer("table", above, persistent=False)

    def forward(self, grid: tuple[int, int]) -> Float[Tensor, "N N"]:
        """grid: (1, N)."""
        return self.table[: grid[1], : grid[1]]


def displacement_map(rows: Tensor, grid: tuple[int, int]) -> Tensor:
    """Rows of a table [(2h-1)(2w-1)... heads], by displacement of the query from the key -> of the key from the query:
    [heads 2h-1 2w-1]."""
    down, across = displacements(grid)
    table: Tensor = rows[: down * across].T.unflatten(1, (down, across))
    return table.flip(1, 2)


def distances(window: int) -> Tensor:
    """The index into the bias table of the distance (down, across) of two cells: [N N], down * window + across."""
    index = torch.arange(window)
    distance = (index[:, None] - index).abs()
    return (distance[:, None, :, None] * window + distance[None, :, None, :]).flatten(2).flatten(0, 1)


def all_displacements(biases: Float[Tensor, "h N"], window: int) -> Float[Tensor, "h _ _"]:
    """The biases of distances in a window [heads window*window], by displacement: [heads 2w-1 2w-1]."""
    quarter = biases.unflatten(1, (window, window))
    half = torch.cat([quarter[:, :, 1:].flip(2), quarter], dim=2)
    return torch.cat([half[:, 1:].flip(1), half], dim=1)


def relative_index(grid: tuple[int, int], device: torch.device | None = None) -> Tensor:
    """The row of the bias table for every query and key: [hw hw], (yq-yk+h-1)(2w-1) + (xq-xk+w-1)."""
    h, w = grid
    y = torch.arange(h, device=device).repeat_interleave(w)
    x = torch.arange(w, device=device).repeat(h)
    return (y[:, None] - y + h - 1) * (2 * w - 1) + (x[:, None] - x + w - 1)


def _with_tokens(grid: tuple[int, int], tokens: int, device: torch.device | None = None) -> Tensor:
    """`relative_index` with rows and columns for `tokens` tokens before it: [N N]."""
    cells = relative_index(grid, device)
    if not tokens:
        return cells
    down, across = displacements(grid)
    first, n = down * across, cells.shape[0]
    to_patch, to_token, among = cells.new_full((tokens, n), first), cells.new_full((n, tokens), first + 1), first + 2
    top = torch.cat([cells.new_full((tokens, tokens), among), to_patch], dim=1)
    return torch.cat([top, torch.cat([to_token, cells], dim=1)])
