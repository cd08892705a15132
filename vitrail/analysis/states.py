"""What the blocks of a backbone make of a batch, each in the same form, whether a family works on tokens or on maps."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.analysis.places import Around, grids_in, told
from vitrail.analysis.watch import blocks_of, run


@dataclass(frozen=True)
class State:
    """The output of a block, or one of its branches. `raw` is the very tensor, [B T+hw D], [B h w D] or [B D h w]."""

    block: str  # its name
    name: str  # that of the block, and of the branch where there are several
    raw: Tensor
    leading: int
    grid: tuple[int, int] | None  # None where the cells could not be placed
    channels_first: bool

    def cells(self, of: Tensor | None = None) -> Tensor:
        """The patches [B h w D] of the output, or of something shaped like it, such as its gradient."""
        x = self.raw if of is None else of
        if x.ndim == 4:
            return x.permute(0, 2, 3, 1) if self.channels_first else x
        patches = x[:, self.leading :]
        return patches.unflatten(1, self.grid) if self.grid else patches[:, None]


def states(model: nn.Module, args: tuple, see: Callable[[State], Any], before: bool = False) -> Any:
    """Runs a model in evaluation mode, `see` being called with every state in order; returns what the model does. The caller decides
    about gradients. before: what comes into the first block is a state too."""
    blocks = blocks_of(model)
    first = next(iter(blocks))

    def after(name: str, block: nn.Module, args: tuple, out: Any, around: Around) -> None:
        if before and name == first:
            for state in split(f"into {name}", block, args, args[0], around):
                see(state)
        for state in split(name, block, args, out, around):
            see(state)

    return run(model, args, blocks, after)


def split(name: str, block: nn.Module, args: tuple, out: Any, around: Around) -> Iterator[State]:
    """One state for each tensor that a block returns."""
    branches = [out] if isinstance(out, Tensor) else [x for x in out if isinstance(x, Tensor)]
    grids = list(grids_in(args[1:]))
    for i, raw in enumerate(branches):
        title = name if len(branches) == 1 else f"{name}[{i}]"
        if raw.ndim == 4:
            first = any(isinstance(m, nn.Conv2d) for m in block.modules())  # linear layers want channels last, convolutions first
            grid = (raw.shape[2], raw.shape[3]) if first else (raw.shape[1], raw.shape[2])
            yield State(name, title, raw, 0, grid, first)
        elif raw.ndim == 3:
            at = grids[i] if i < len(grids) else grid_of_tokens(raw, around)
            yield State(name, title, raw, raw.shape[1] - at[0] * at[1] if at else 0, at, False)


def grid_of_tokens(x: Tensor, around: Around) -> tuple[int, int] | None:
    """The grid of tokens [B N D], by what modules around say."""
    maps = told(x.shape[1], around).maps
    return maps[0].grid if maps else None


def each(model: nn.Module, args: tuple, make: Callable[[State], Any]) -> tuple[list[str], list[Any]]:
    """The names of all states and what `make` makes of each, without gradients. Nothing else is kept of them."""
    names, made = [], []

    def see(state: State) -> None:
        names.append(state.name)
        made.append(make(state))

    with torch.no_grad():
        states(model, args, see)
    return names, made


def flat(state: State) -> Tensor:
    """All patches of a picture in a row, float32: [B N D]."""
    return state.cells().flatten(1, 2).float()
