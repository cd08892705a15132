"""How a model tells places, without any picture: tables, rotations and relative biases; and the filters that cut the patches."""

from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.analysis.places import Grid, is_grid, strides_of
from vitrail.analysis.watch import backbone_of
from vitrail.errors import UsageError
from vitrail.layers.patch import grid_of
from vitrail.layers.position import Position
from vitrail.layers.rotary import Rotary


class Encoding(NamedTuple):
    """How one part tells places.

    "table"     the cosine between what is joined to two cells, [h w h w]: one tile a cell
    "rotary"    by how much turning alone lets a query and a key of two cells agree, [h w h w]; 1 for a cell and itself
    "relative"  what is added to the logits, by displacement of the key from the query: [heads 2h-1 2w-1]
    """

    name: str  # of the module
    kind: Literal["table", "rotary", "relative"]
    values: Tensor


class Filters(NamedTuple):
    """Principal components of filters: pictures [n C p p], of unit length, and the share of the variance that each explains [n]."""

    pictures: Tensor
    shares: Tensor


@torch.no_grad()
def encodings(model: nn.Module, grid: Grid | None = None) -> list[Encoding]:
    """All of a model's ways to tell places. grid: (height, width) in cells that tables and rotations are taken at, by default that
    which they were made for. Errors: `UsageError` for a model that has none."""
    backbone = backbone_of(model)
    found: list[Encoding] = []
    turned: set[tuple] = set()
    inside: set[int] = set()
    for name, module in backbone.named_modules():
        if isinstance(module, Position):
            at = grid or grid_of_table(module)
            found.append(Encoding(name, "table", similarity(module.encoding(at), at)))
        elif isinstance(module, Rotary) and (same := (module.head_width, module.base, module.pairs)) not in turned:
            turned.add(same)  # nothing is learned, so all layers turn alike
            at = grid or own_grid(backbone)
            found.append(Encoding(name, "rotary", kernel(module.angles(at), at)))
        elif id(module) not in inside and (bias := biases(backbone, name, module)) is not None:
            inside |= {id(m) for m in module.modules()}
            found.append(Encoding(name, "relative", bias))
    angles: Any = getattr(backbone, "angles", None)
    if callable(angles):  # a model that turns queries and keys by itself, tokens without a place first
        at = grid or own_grid(backbone)
        found.append(Encoding("angles", "rotary", kernel(angles(at, torch.device("cpu"))[-at[0] * at[1] :], at)))
    if not found:
        raise UsageError(f"{type(backbone).__name__} has no position encoding",
                         "nothing is to be drawn: its convolutions tell places by the zeros around the picture")  # fmt: skip
    return found


def similarity(table: Tensor, grid: Grid) -> Tensor:
    """The cosine between the rows of a table [hw D]: [h w h w]."""
    unit = F.normalize(table.detach().double().cpu(), dim=1)
    return (unit @ unit.T).float().view(*grid, *grid)


def kernel(angles: Tensor, grid: Grid) -> Tensor:
    """The mean over pairs of channels of the cosine of the difference between the angles [hw pairs] of two cells: [h w h w].

    It is what q k is worth after turning, next to before, where q and k are alike and all pairs are as long.
    """
    waves = torch.cat([angles.cos(), angles.sin()], dim=1).double().cpu()
    return (waves @ waves.T / angles.shape[1]).float().view(*grid, *grid)


def biases(backbone: nn.Module, name: str, module: nn.Module) -> Tensor | None:
    """The relative bias of an attention [heads 2h-1 2w-1], if it has one: a part `relative` that gives [heads N N], or a table of
    absolute displacements [heads side*side]."""
    relative: Any = getattr(module, "relative", None)
    if isinstance(relative, nn.Module):
        window = getattr(relative, "grid", None) or getattr(backbone.get_submodule(name.rpartition(".")[0]), "window", None)
        return by_displacement(relative(), window) if is_grid(window) else None
    table: Any = getattr(module, "attention_biases", None)
    side = getattr(module, "window", None)
    if isinstance(table, Tensor) and isinstance(side, int) and table.shape[-1] == side * side:
        quarter = table.detach().float().cpu().view(-1, side, side)
        half = torch.cat([quarter[:, :, 1:].flip(2), quarter], dim=2)
        return torch.cat([half[:, 1:].flip(1), half], dim=1)
    return None


def by_displacement(bias: Tensor, window: Any) -> Tensor:
    """A bias [heads N N], tokens without a place first, as one number a displacement (key minus query): [heads 2h-1 2w-1]."""
    h, w = window
    leading = bias.shape[-1] - h * w
    cells = bias[:, leading:, leading:].detach().float().cpu().unflatten(2, (h, w)).unflatten(1, (h, w))  # [heads h w h w]
    down, across = torch.arange(1 - h, h), torch.arange(1 - w, w)
    top, left = (-down).clamp(min=0)[:, None], (-across).clamp(min=0)[None]  # a query from which the key is on the map
    return cells[:, top, left, top + down[:, None], left + across[None]]


def grid_of_table(position: Position) -> Grid:
    """The grid that a table was made for."""
    made: Any = getattr(position, "grid", None)
    return (made[0], made[1]) if made is not None else (len(position.rows), len(position.columns))  # type: ignore[arg-type]


def own_grid(backbone: nn.Module) -> Grid:
    """The grid of a model on pictures of its own size."""
    config: Any = backbone.config
    patch = config.patch if isinstance(config.patch, tuple) else (strides_of(backbone)[0],) * 2
    return grid_of(config.size, patch)


@torch.no_grad()
def filters(model: nn.Module, count: int = 28) -> Filters:
    """The first principal components of the filters that meet the picture first, with the mean filter taken off (Dosovitskiy et al.
    2020, figure 7). Errors: `UsageError` for a model that begins with no convolution or patches."""
    first = next((m for m in backbone_of(model).modules() if isinstance(m, nn.Conv2d)), None)
    if first is None or count < 1:
        raise UsageError("no filters meet the picture first" if first is None else f"{count} components are none",
                         "give a backbone of vitrail" if first is None else "take 1 or more")  # fmt: skip
    weight = first.weight.detach().double().cpu()
    rows = weight.flatten(1) - weight.flatten(1).mean(0)
    _, lengths, components = torch.linalg.svd(rows, full_matrices=False)
    n = min(count, len(components))
    components = components[:n]
    signs = components.gather(1, components.abs().argmax(1, keepdim=True)).sign()  # so that the same filters give the same pictures
    shares = lengths.square() / lengths.square().sum().clamp(min=1e-300)
    return Filters((components * signs).float().view(n, *weight.shape[1:]), shares[:n].float())
