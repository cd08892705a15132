"""Token merging: after the attention of every block the r pairs of patches whose keys are most alike become one token
each, so that later blocks have fewer ("Token merging: your ViT but faster", Bolya et al. 2022, arxiv.org/abs/
2210.09461).

The class token, the distillation token and registers are never merged. A token of s patches counts s times as a key
("proportional attention"), which gives what s equal tokens would. At the end each patch gets its group's token.
"""

from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from torch import Tensor

from vitrail.errors import UsageError
from vitrail.shapes import Float, Int
from vitrail.types import MergedGroups, TokenLayout

MOST = 4096  # tokens a block
# Tokens that each block merges, or below 1 the share that all do ("half": 0.5); 0: none
Merge = Annotated[float, Ge(0), Le(MOST)] | Literal["half"]


class Matching(NamedTuple):
    """Of a sequence without its leading tokens, counted from 0: what stays, in its new order, [B n-r]; the r that are
    merged; and into which of those that stay, by their places in the new order, [B r] each."""

    kept: Tensor
    sources: Tensor
    targets: Tensor


def check_merge(merge: Merge) -> float:
    """The number of a setting. Errors: `UsageError` for a number of tokens that is not whole."""
    if isinstance(merge, str):
        return 0.5
    if merge >= 1 and merge != int(merge):
        raise UsageError(
            f"merge is {merge:g}", "a whole number of tokens a block, as in 8; or a share below 1 of all, as in 0.5"
        )
    return merge


def merge_counts(merge: float, tokens: int, depth: int) -> list[int]:
    """How many of so many tokens each block merges: a number a block, or of a share below 1 as much, spread evenly. A
    block can merge half of its tokens.

    >>> merge_counts(8, 30, 4), merge_counts(0.5, 30, 4)
    ([8, 8, 7, 3], [4, 4, 4, 3])
    """
    counts: list[int] = []  # torch.compile does not trace `list[int]()`
    left, due = tokens, round(merge * tokens)
    for blocks in range(depth, 0, -1):
        wanted = int(merge) if merge >= 1 else -(-due // blocks)
        counts.append(min(wanted, left // 2))
        left, due = left - counts[-1], due - counts[-1]
    return counts


@torch.no_grad()
def match_tokens(keys: Float[Tensor, "B h N d"], count: int, leading: int) -> Matching:
    """The pairs to merge (section 3, "bipartite soft matching"): every other token chooses the one of the rest whose
    key, the mean over heads, is the most similar by cosine; the `count` most similar pairs are merged.

    Tokens that stay are in their order, those that chose before those that were chosen. (The published code sorts them
    only where there is a class token; in the order of similarities the next block's pairs would depend on rounding.)
    """
    metric = F.normalize(keys.float().mean(1)[:, leading:], dim=-1)  # [B n d]
    first = leading % 2  # as the published code counts: every other one from the first token of the whole sequence on
    best, partner = similarities(metric[:, first::2], metric[:, 1 - first :: 2]).max(-1)
    order = best.sort(dim=1, descending=True).indices
    sources, rest = order[:, :count], order[:, count:].sort(1).values
    chosen = torch.arange(1 - first, metric.shape[1], 2, device=keys.device).expand(keys.shape[0], -1)
    kept = torch.cat([2 * rest + first, chosen], dim=1)
    return Matching(kept, 2 * sources + first, partner.gather(1, sources) + rest.shape[1])


def similarities(a: Float[Tensor, "B n d"], b: Float[Tensor, "B m d"]) -> Float[Tensor, "B n m"]:
    """The product of unit vectors, in float32 also under autocast: in bf16 different ones would be equal."""
    kind = a.device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return a @ b.mT
    with torch.autocast(kind, enabled=False):
        return a @ b.mT


def merge_tokens(
    x: Float[Tensor, "B N D"], layout: TokenLayout, keys: Float[Tensor, "B h N d"], count: int
) -> tuple[Tensor, TokenLayout]:
    """`count` tokens of a sequence merged by their keys, and the new layout. A merged token is the mean of its patches
    before, each of the same weight."""
    if not count:
        return x, layout
    kept, sources, targets = match_tokens(keys, count, layout.leading)
    lead, groups = layout.leading, layout.merged or single_cells(layout, x)
    moved, into = groups.sizes.gather(1, sources), groups.sizes.gather(1, kept)
    sizes = into.scatter_add(1, targets, moved)
    tokens = torch.arange(lead, device=x.device).expand(x.shape[0], -1)
    merged = take_rows(x, torch.cat([tokens, kept + lead], dim=1))
    # the mean of a group moves by the share of what joins it: only these rows are computed
    share = (moved / sizes.gather(1, targets)).to(x.dtype)[..., None]
    change = (take_rows(x, sources + lead) - take_rows(merged, targets + lead)) * share
    merged = merged.scatter_add(1, (targets + lead)[..., None].expand_as(change), change)
    places = torch.arange(kept.shape[1], device=x.device).expand_as(kept)
    moves = torch.empty_like(groups.sizes, dtype=torch.int64).scatter(1, kept, places).scatter(1, sources, targets)
    index = moves if layout.merged is None else moves.gather(1, groups.tokens)
    return merged, layout._replace(merged=MergedGroups(index, sizes))


def single_cells(layout: TokenLayout, x: Tensor) -> MergedGroups:
    """Groups of one cell each."""
    shape = (x.shape[0], layout.cells)
    index = torch.arange(layout.cells, device=x.device).expand(shape)
    return MergedGroups(index, torch.ones(shape, device=x.device))


def take_rows(x: Float[Tensor, "B N D"], index: Int[Tensor, "B n"]) -> Float[Tensor, "B n D"]:
    """The tokens at indices. Whole rows are copied: `gather` goes by single numbers, and takes twelve times as long."""
    batch, count = x.shape[:2]
    rows = index + count * torch.arange(batch, device=x.device)[:, None]
    taken: Tensor = x.flatten(0, 1).index_select(0, rows.flatten()).unflatten(0, (batch, -1))
    return taken


def unmerge_tokens(x: Float[Tensor, "B n D"], layout: TokenLayout) -> tuple[Tensor, TokenLayout]:
    """A token for every cell again, that of its group; and the layout."""
    if layout.merged is None:
        return x, layout
    lead = layout.leading
    cells = take_rows(x[:, lead:], layout.merged.tokens)
    return torch.cat([x[:, :lead], cells], dim=1) if lead else cells, layout._replace(merged=None)


def log_sizes(layout: TokenLayout, like: Tensor) -> Float[Tensor, "B 1 1 N"] | None:
    """What is added to the logits of a key for the cells that it stands for; None where no tokens are merged."""
    if layout.merged is None:
        return None
    return F.pad(layout.merged.sizes.log(), (layout.leading, 0))[:, None, None].to(like.dtype)


def mean_of_cells(values: Float[Tensor, "N c"], merged: MergedGroups) -> Float[Tensor, "B n c"]:
    """Values of cells, their mean over each group: a merged token is at the centre of its cells."""
    batch, tokens = merged.sizes.shape
    index = merged.tokens[..., None].expand(-1, -1, values.shape[1])
    sums = values.new_zeros(batch, tokens, values.shape[1]).scatter_add(1, index, values.expand(batch, -1, -1))
    return sums / merged.sizes[..., None]


def unmerge_weights(weights: Float[Tensor, "B h n n"], merged: MergedGroups, leading: int) -> Float[Tensor, "B h N N"]:
    """The attention of every cell on every cell: each attends as its group does, and gets its part of what its group
    gets; rows have the sum that they had."""
    tokens = torch.arange(leading, device=weights.device).expand(weights.shape[0], -1)
    index = torch.cat([tokens, merged.tokens + leading], dim=1)  # [B N]
    share = F.pad(1 / merged.sizes, (leading, 0), value=1.0).gather(1, index)
    heads, count = weights.shape[1], index.shape[1]
    rows = weights.gather(2, index[:, None, :, None].expand(-1, heads, -1, weights.shape[3]))
    return rows.gather(3, index[:, None, None].expand(-1, heads, count, -1)) * share[:, None, None]
