"""The outputs of the blocks of a backbone for a batch, in one form, whether a family works on tokens or on maps."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.analysis.hooks import blocks_of, run_with_hooks
from vitrail.layers.merge import take_rows
from vitrail.types import Grid, TokenLayout


@dataclass(frozen=True)
class BlockOutput:
    """The output of a block, or one of its branches. `raw` is the tensor itself: with the layout passed to the block,
    [B N D] or [B h w D]; without one a map [B D h w], or [B N D] of unknown positions."""

    block: str  # name of the block
    name: str  # of the block, and of the branch where there are several
    raw: Tensor
    layout: TokenLayout | None

    @property
    def grid(self) -> Grid | None:
        """The grid of the cells, None where it is unknown."""
        if self.layout is None:
            return (self.raw.shape[2], self.raw.shape[3]) if self.raw.ndim == 4 else None
        return self.layout.grid

    def cells(self, of: Tensor | None = None) -> Tensor:
        """The patches [B h w D] of the output, or of a gradient that is shaped like it. Merged patches have their token
        each, and an equal part of its gradient."""
        x, layout = self.raw if of is None else of, self.layout
        if layout is None:
            return x.permute(0, 2, 3, 1) if x.ndim == 4 else x[:, None]
        if x.ndim == 4:
            return x
        x = x[:, layout.leading : layout.leading + layout.cells]
        if layout.merged is not None:
            x = take_rows(x if of is None else x / layout.merged.sizes[..., None], layout.merged.tokens)
        return x.unflatten(1, layout.grid)


def visit_outputs(model: nn.Module, args: tuple, see: Callable[[BlockOutput], Any], before: bool = False) -> Any:
    """Runs a model in evaluation mode and calls `see` with every block output in order; returns the model's output. The
    caller decides about gradients. before: include the input of the first block."""
    blocks = blocks_of(model)
    first = next(iter(blocks))

    def after(name: str, block: nn.Module, args: tuple, out: Any) -> None:
        if before and name == first:
            for state in split(f"into {name}", args, args[0]):
                see(state)
        for state in split(name, args, out):
            see(state)

    return run_with_hooks(model, args, blocks, after)


def split(name: str, args: tuple, out: Any) -> Iterator[BlockOutput]:
    """One output for each tensor that a block returns, with the layout that it returns, or was passed, for it."""
    branches = [out] if isinstance(out, Tensor) else [x for x in out if isinstance(x, Tensor)]
    layouts = list(layouts_in(() if isinstance(out, Tensor) else out)) or list(layouts_in(args))
    for i, raw in enumerate(branches):
        title = name if len(branches) == 1 else f"{name}[{i}]"
        yield BlockOutput(name, title, raw, layouts[i] if i < len(layouts) else None)


def layouts_in(value: Any) -> Iterator[TokenLayout]:
    """All layouts among arguments, those in lists included."""
    if isinstance(value, TokenLayout):
        yield value
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from layouts_in(inner)


def map_outputs(model: nn.Module, args: tuple, make: Callable[[BlockOutput], Any]) -> tuple[list[str], list[Any]]:
    """The names of all block outputs and the results of `make` for each, without gradients. Nothing else is kept."""
    names, results = [], []

    def see(state: BlockOutput) -> None:
        names.append(state.name)
        results.append(make(state))

    with torch.no_grad():
        visit_outputs(model, args, see)
    return names, results


def flatten_tokens(state: BlockOutput) -> Tensor:
    """All patches of an image in a row, float32: [B N D]."""
    return state.cells().flatten(1, 2).float()
