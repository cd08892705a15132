"""From the weights of single layers to which cells of the image an answer comes from: attention rollout and relevance.

Both follow the summary backwards, layer by layer, so that a vector is carried and not a matrix of all tokens by all. Where a model has
several grids, a cell's share is spread over the cells of the finer map that it covers, and that of a reduced key over the cells that it
stands for. What convolutions between the layers mix is not followed.
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
    """Where r rows of the last layer come from: shares of tokens without a place [B r T] and of the first layer's cells [B r h w]."""

    tokens: Tensor
    cells: Tensor


def rollout(model: nn.Module, images: ModelInputs, layers: Layers = None, heads: Reduction = "mean", discard: float = 0.0,
            residual: float = 0.5) -> Tensor:  # fmt: skip
    """How much of the summary comes from each cell of the first layer, [B h w] (Abnar & Zuidema 2020, section 3).

    Each layer passes on `residual` of what a token was and the rest by attention, over heads joined by their mean, min or max, each
    row without its smallest weights (the share `discard`) and brought to a sum of one.
    Errors: `UsageError` for layers that do not follow one row of tokens.
    """
    looks = attention(model, images, layers, heads)
    check(looks, model, discard)
    steps = [discard_smallest(one, discard) for one in looks]
    return trace_shares(looks, steps, summary_row(looks[-1]), residual, 1.0 - residual).cells[:, 0]


def relevance(
    model: nn.Module, images: ModelInputs, classes: Tensor | int | None = None, layers: Layers = None
) -> Tensor:
    """How much each cell of the first layer speaks for a class, [B h w]: gradient times attention, its positive part, the mean over
    heads, added up along the layers (Chefer et al. 2021, arxiv.org/abs/2103.15679, equations 5 and 6).

    classes: an index, one an image [B], or None for the likeliest. Works out the chosen layers from their weights, not by the fused
    kernel. Errors: as `rollout`, and `UsageError` for a model without a head.
    """
    looks = positive_relevance(model, images, classes, layers)
    check(looks, model, 0.0)
    steps = [one.parts[:, :, 0] for one in looks]
    start = summary_row(looks[-1])
    nothing = trace_shares(looks, [torch.zeros_like(step) for step in steps], start, 1.0, 1.0)
    return (trace_shares(looks, steps, start, 1.0, 1.0).cells - nothing.cells)[:, 0]


def positive_relevance(
    model: nn.Module, images: ModelInputs, classes: Tensor | int | None, layers: Layers
) -> list[LayerAttention]:
    """The positive part of weights times gradients of each layer, the mean over its heads: `parts` [B g 1 n m]."""
    chosen = choose_attentions(model, layers)
    args = prepare_inputs(model, images)
    args = (args[0].detach().clone().requires_grad_(), *args[1:])  # so that gradients flow through a frozen model too
    weights: dict[str, Tensor] = {}
    places = {}

    def see(name: str, module: Attention, args: tuple, out: Tensor) -> Tensor:
        found = module.weights(*args)
        values = module.project(*args).values
        weights[name], places[name] = found, module.locate(*args)
        return module.dropout(module.proj(merge_heads(found.to(values.dtype) @ values)))

    watched = {name: m for modules in chosen.values() for name, m in modules.items()}
    with torch.enable_grad():
        score = class_scores(run_with_hooks(model, args, watched, see), classes).sum()
        gradients = torch.autograd.grad(score, list(weights.values()), allow_unused=True)
    said = {}
    for (name, found), gradient in zip(weights.items(), gradients, strict=True):
        product = torch.zeros_like(found) if gradient is None else (gradient * found).clamp(min=0)
        said[name] = product.detach().float().mean(1, keepdim=True).cpu()
    looks = []
    for site, modules in chosen.items():
        names = [name for name in modules if name in said]
        if names:
            looks.append(
                build_layer_attention(site, torch.stack([said[name] for name in names]).mean(0), places[names[0]])
            )
    return looks


def check(looks: Sequence[LayerAttention], model: nn.Module, discard: float) -> None:
    """Errors: `UsageError` where the layers are not one stack over ever coarser grids."""
    if not 0.0 <= discard < 1.0:
        raise UsageError(f"discard is a share of the weights, not {discard}", "take at least 0 and less than 1")
    owners = {id(m): i for i, block in enumerate(block_list(model)) for m in block.modules()}
    grids: dict[int, tuple[int, int]] = {}
    before = None
    for one in looks:
        if len(one.queries.maps) != 1 or len(one.keys.maps) != 1 or one.queries.trailing:
            raise UsageError(
                f"{one.name} looks from one thing at another, and this follows one row of tokens",
                "choose layers without it",
            )
        grid, owner = one.queries.maps[0].grid, owners.get(id(model.get_submodule(one.name)), -1)
        finer = before is not None and (grid[0] > before[0] or grid[1] > before[1])
        if finer or (owner >= 0 and grids.setdefault(owner, grid) != grid):
            raise UsageError(f"{one.name} works on {grid[0]} x {grid[1]} cells, beside the layers before it and not after them",
                             "choose the layers of one branch")  # fmt: skip
        before = grid


def summary_row(last: LayerAttention) -> Tensor:
    """Which tokens of the last layer the summary is made of, as shares [B 1 N]: the class tokens, or all cells alike."""
    side = last.queries
    shares = torch.zeros(len(last.parts), 1, side.tokens)
    first, count = (0, side.summaries) if side.summaries else (side.leading, side.cells)
    shares[:, :, first : first + count] = 1.0 / max(1, count)
    return shares


def discard_smallest(one: LayerAttention, discard: float) -> Tensor:
    """Weights [B g n m] of joined heads without padding and without the smallest of each row, rows summing to one."""
    parts = one.parts[:, :, 0] * (one.key_index >= 0)[:, None]
    count = int(discard * parts.shape[-1])
    if count:
        parts = parts.scatter(-1, parts.topk(count, dim=-1, largest=False).indices, 0.0)
    return parts / parts.sum(-1, keepdim=True).clamp(min=TINY)


def trace_shares(
    looks: Sequence[LayerAttention], steps: Sequence[Tensor], shares: Tensor, stays: float, passes: float
) -> TokenShares:
    """Shares of the last layer's tokens [B r N], carried back to what comes into the first: each layer keeps `stays` of them where they
    are and adds `passes` of what its step [B g n m] gives to its keys."""
    gone = shares[:, :, :0]  # of tokens that joined on the way: they come from nowhere on the image
    for i in reversed(range(len(looks))):
        one = looks[i]
        if i + 1 < len(looks):
            shares, joined = handed(shares, looks[i + 1].queries, one.queries)
            gone = torch.cat([joined, gone], dim=2)
        shares = stays * shares + passes * back(one, steps[i], shares)
    side = looks[0].queries
    return TokenShares(
        torch.cat([shares[:, :, : side.leading], gone], dim=2),
        shares[:, :, side.leading :].unflatten(2, side.maps[0].grid),
    )


def back(one: LayerAttention, step: Tensor, shares: Tensor) -> Tensor:
    """Shares of a layer's queries [B r N] -> of the same tokens as they come in."""
    padded = torch.cat([shares, torch.zeros_like(shares[:, :, :1])], dim=2)
    moved = torch.einsum("brgn,bgnm->brgm", padded[:, :, one.query_index % padded.shape[2]], step)
    n, m = one.queries.tokens, one.keys.tokens
    keys = shares.new_zeros(*shares.shape[:2], m + 1).index_add(
        2, (one.key_index % (m + 1)).flatten(), moved.flatten(2)
    )[:, :, :-1]
    if m == n:
        return keys
    lead = one.keys.leading
    cells = resize_cells(keys[:, :, lead:], one.keys.maps[0], one.queries.maps[0])
    rest = torch.zeros_like(shares[:, :, : one.queries.leading])
    rest[:, :, :lead] = keys[:, :, :lead]
    return torch.cat([rest, cells], dim=2)


def handed(shares: Tensor, later: Side, earlier: Side) -> tuple[Tensor, Tensor]:
    """Shares of the tokens of one layer [B r N] -> of those of the layer before, and of tokens that were not there yet."""
    new = later.leading - earlier.leading
    cells = shares[:, :, later.leading :]
    if later.maps[0].grid != earlier.maps[0].grid:
        cells = resize_cells(cells, later.maps[0], earlier.maps[0])
    return torch.cat([shares[:, :, new : later.leading], cells], dim=2), shares[:, :, :new]


def resize_cells(cells: Tensor, new: Cells, old: Cells) -> Tensor:
    """Shares of the cells of one map [B r N], spread over those of another by the area that they cover: [B r N']."""
    down, across = overlap(new.rows, old.rows), overlap(new.columns, old.columns)
    return torch.einsum("brij,iy,jx->bryx", cells.unflatten(2, new.grid), down, across).flatten(2)


def overlap(new: Tensor, old: Tensor) -> Tensor:
    """Which share of each new interval [n 2] lies in each old one [m 2], rows summing to one: [n m]."""
    shared = (torch.minimum(new[:, None, 1], old[:, 1]) - torch.maximum(new[:, None, 0], old[:, 0])).clamp(min=0)
    return shared / shared.sum(1, keepdim=True).clamp(min=1e-9)
