"""Attribution of a prediction to the cells of the image from attention weights: attention rollout and relevance.

Both propagate the summary backwards, layer by layer, as a vector instead of a matrix of all tokens by all. Where a
model has several grids, a cell's share is distributed over the cells of the finer map that it covers, and that of a
reduced key over its cells. Mixing by convolutions between the layers is not followed.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vitrail.analysis.attention import (
    LayerAttention,
    Layers,
    Reduction,
    attention,
    build_layer_attention,
    choose_attentions,
)
from vitrail.analysis.hooks import ModelInputs, block_list, class_scores, prepare_inputs, run_with_hooks
from vitrail.errors import UsageError
from vitrail.layers.attention import Attention, merge_heads
from vitrail.layers.token_layout import Cells, Side

TINY = 1e-12


class TokenShares(NamedTuple):
    """The sources of r rows of the last layer: shares of tokens without a position [B r T] and of the first layer's
    cells [B r h w]."""

    tokens: Tensor
    cells: Tensor


def rollout(
    model: nn.Module,
    images: ModelInputs,
    layers: Layers = None,
    heads: Reduction = "mean",
    discard: float = 0.0,
    residual: float = 0.5,
) -> Tensor:
    """The share of the summary that comes from each cell of the first layer, [B h w] (Abnar & Zuidema 2020, section 3).

    Each layer keeps `residual` of a token and adds the rest by attention, over heads reduced by their mean, min or max,
    each row without its smallest weights (the share `discard`) and normalised to a sum of one. Where a learned query
    pools the tokens, its weights are the summary's shares.
    Errors: `UsageError` for layers that are not one sequence over the same tokens.
    """
    return rollout_of(attention(model, images, layers, heads), model, discard, residual)


def rollout_of(
    recorded: Sequence[LayerAttention], model: nn.Module, discard: float = 0.0, residual: float = 0.5
) -> Tensor:
    """The same of attentions that were recorded, their heads reduced to one."""
    attentions, pool = split_pool(list(recorded))
    check(attentions, model, discard)
    steps = [discard_smallest(one, discard) for one in attentions]
    start = summary_row(attentions[-1]) if pool is None else discard_smallest(pool, discard)[:, 0]
    return trace_shares(attentions, steps, start, residual, 1.0 - residual).cells[:, 0]


def relevance(
    model: nn.Module, images: ModelInputs, classes: Tensor | int | None = None, layers: Layers = None
) -> Tensor:
    """The relevance of each cell of the first layer for a class, [B h w]: gradient times attention, its positive part,
    the mean over heads, accumulated along the layers (Chefer et al. 2021, arxiv.org/abs/2103.15679, equations 5 and 6).

    classes: an index, one per image [B], or None for the predicted one. Computes the chosen layers from their weights,
    not by the fused kernel. Errors: as `rollout`, and `UsageError` for a model without a head.
    """
    attentions, pool = split_pool(positive_relevance(model, images, classes, layers))
    check(attentions, model, 0.0)
    steps = [one.parts[:, :, 0] for one in attentions]
    if pool is not None:
        return trace_shares(attentions, steps, pool.parts[:, 0, 0], 1.0, 1.0).cells[:, 0]
    start = summary_row(attentions[-1])
    nothing = trace_shares(attentions, [torch.zeros_like(step) for step in steps], start, 1.0, 1.0)
    return (trace_shares(attentions, steps, start, 1.0, 1.0).cells - nothing.cells)[:, 0]


def positive_relevance(
    model: nn.Module, images: ModelInputs, classes: Tensor | int | None, layers: Layers
) -> list[LayerAttention]:
    """The positive part of weights times gradients of each layer, the mean over its heads: `parts` [B g 1 n m]."""
    chosen = choose_attentions(model, layers)
    args = prepare_inputs(model, images)
    args = (args[0].detach().clone().requires_grad_(), *args[1:])  # so that gradients flow through a frozen model too
    weights: dict[str, Tensor] = {}
    layouts = {}

    def record(name: str, module: Attention, args: tuple, out: Tensor) -> Tensor:
        weight = module.weights(*args)
        values = module.inputs(*args).values
        weights[name], layouts[name] = weight, module.locate(*args)
        return module.dropout(module.proj(merge_heads(weight.to(values.dtype) @ values)))

    modules_by_name = {name: m for modules in chosen.values() for name, m in modules.items()}
    with torch.enable_grad():
        score = class_scores(run_with_hooks(model, args, modules_by_name, record), classes).sum()
        gradients = torch.autograd.grad(score, list(weights.values()), allow_unused=True)
    positive = {}
    for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
        product = torch.zeros_like(weight) if gradient is None else (gradient * weight).clamp(min=0)
        positive[name] = product.detach().float().mean(1, keepdim=True).cpu()
    attentions = []
    for site, modules in chosen.items():
        names = [name for name in modules if name in positive]
        if names:
            mean = torch.stack([positive[name] for name in names]).mean(0)
            attentions.append(build_layer_attention(site, mean, layouts[names[0]]))
    return attentions


def split_pool(attentions: list[LayerAttention]) -> tuple[list[LayerAttention], LayerAttention | None]:
    """The layers over the tokens, and the attention of the one query that pools those of the last, if there is one."""
    *layers, last = attentions
    if layers and last.queries.tokens == 1 and not last.queries.maps and last.keys.tokens == layers[-1].queries.tokens:
        return layers, last
    return attentions, None


def check(attentions: Sequence[LayerAttention], model: nn.Module, discard: float) -> None:
    """Errors: `UsageError` where the layers are not one sequence over ever coarser grids."""
    if not 0.0 <= discard < 1.0:
        raise UsageError(f"discard is a share of the weights, not {discard}", "use at least 0 and less than 1")
    owners = {id(m): i for i, block in enumerate(block_list(model)) for m in block.modules()}
    grids: dict[int, tuple[int, int]] = {}
    before = None
    for one in attentions:
        if len(one.queries.maps) != 1 or len(one.keys.maps) != 1 or one.queries.trailing:
            raise UsageError(
                f"{one.name} attends from one set of tokens to another; rollout needs layers over the same tokens",
                "choose layers without it",
            )
        grid, owner = one.queries.maps[0].grid, owners.get(id(model.get_submodule(one.name)), -1)
        finer = before is not None and (grid[0] > before[0] or grid[1] > before[1])
        if finer or (owner >= 0 and grids.setdefault(owner, grid) != grid):
            raise UsageError(
                f"{one.name} works on {grid[0]} x {grid[1]} cells, parallel to the layers before it",
                "choose the layers of one branch",
            )
        before = grid


def summary_row(last: LayerAttention) -> Tensor:
    """The shares of the last layer's tokens in the summary [B 1 N]: the class tokens, or all cells equally."""
    side = last.queries
    shares = torch.zeros(last.parts.shape[0], 1, side.tokens)
    first, count = (0, side.summaries) if side.summaries else (side.leading, side.cells)
    shares[:, :, first : first + count] = 1.0 / max(1, count)
    return shares


def discard_smallest(one: LayerAttention, discard: float) -> Tensor:
    """Weights [B g n m] of reduced heads without padding and without the smallest of each row, rows summing to one."""
    parts = one.parts[:, :, 0] * (one.key_index >= 0)[:, None]
    count = int(discard * parts.shape[-1])
    if count:
        parts = parts.scatter(-1, parts.topk(count, dim=-1, largest=False).indices, 0.0)
    return parts / parts.sum(-1, keepdim=True).clamp(min=TINY)


def trace_shares(
    attentions: Sequence[LayerAttention], steps: Sequence[Tensor], shares: Tensor, stays: float, passes: float
) -> TokenShares:
    """Shares of the last layer's tokens [B r N], propagated back to the input of the first: each layer keeps `stays` of
    each share and distributes `passes` of it to the keys by its step [B g n m]."""
    added = shares[:, :, :0]  # of tokens added in later layers: they come from no cell
    for i in reversed(range(len(attentions))):
        one = attentions[i]
        if i + 1 < len(attentions):
            shares, new = to_earlier_layer(shares, attentions[i + 1].queries, one.queries)
            added = torch.cat([new, added], dim=2)
        shares = stays * shares + passes * distribute(one, steps[i], shares)
    side = attentions[0].queries
    return TokenShares(
        torch.cat([shares[:, :, : side.leading], added], dim=2),
        shares[:, :, side.leading :].unflatten(2, side.maps[0].grid),
    )


def distribute(one: LayerAttention, step: Tensor, shares: Tensor) -> Tensor:
    """Shares of a layer's queries [B r N] -> of its input tokens."""
    padded = torch.cat([shares, torch.zeros_like(shares[:, :, :1])], dim=2)
    of_groups = padded[:, :, one.query_index] * one.shares.to(padded)  # that of padding, -1, is the last one
    moved = torch.einsum("brgn,bgnm->brgm", of_groups, step)
    n, m = one.queries.tokens, one.keys.tokens
    keys = shares.new_zeros(*shares.shape[:2], m + 1).index_add(
        2, torch.where(one.key_index < 0, m, one.key_index).flatten(), moved.flatten(2)
    )[:, :, :-1]
    if m == n:
        return keys
    lead = one.keys.leading
    cells = resize_cells(keys[:, :, lead:], one.keys.maps[0], one.queries.maps[0])
    rest = torch.zeros_like(shares[:, :, : one.queries.leading])
    rest[:, :, :lead] = keys[:, :, :lead]
    return torch.cat([rest, cells], dim=2)


def to_earlier_layer(shares: Tensor, later: Side, earlier: Side) -> tuple[Tensor, Tensor]:
    """Shares of the tokens of one layer [B r N] -> of those of the layer before, and of tokens added after it."""
    new = later.leading - earlier.leading
    cells = shares[:, :, later.leading :]
    if later.maps[0].grid != earlier.maps[0].grid:
        cells = resize_cells(cells, later.maps[0], earlier.maps[0])
    return torch.cat([shares[:, :, new : later.leading], cells], dim=2), shares[:, :, :new]


def resize_cells(cells: Tensor, new: Cells, old: Cells) -> Tensor:
    """Shares of the cells of one map [B r N], distributed over those of another by overlapping area: [B r N']."""
    down, across = overlap(new.rows, old.rows), overlap(new.columns, old.columns)
    return torch.einsum("brij,iy,jx->bryx", cells.unflatten(2, new.grid), down, across).flatten(2)


def overlap(new: Tensor, old: Tensor) -> Tensor:
    """Which share of each new interval [n 2] lies in each old one [m 2], rows summing to one: [n m]."""
    shared = (torch.minimum(new[:, None, 1], old[:, 1]) - torch.maximum(new[:, None, 0], old[:, 0])).clamp(min=0)
    return shared / shared.sum(1, keepdim=True).clamp(min=1e-9)
