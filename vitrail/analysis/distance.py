"""Mean attention distance and entropy, by layer and head."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vitrail.analysis.attention import LayerAttention, Layers, attention
from vitrail.analysis.hooks import ModelInputs
from vitrail.layers.token_layout import Side

TINY = torch.finfo(torch.float32).tiny  # less than any weight that was not masked


class Profile(NamedTuple):
    """A layer over many images, each [h]: the mean distance in pixels (NaN where tokens have no position), the entropy
    in nats, and its share of the maximum."""

    name: str
    distance: Tensor
    entropy: Tensor
    entropy_share: Tensor


def profile_layers(model: nn.Module, batches: Iterable[ModelInputs], layers: Layers = None) -> list[Profile]:
    """Every layer over all images of some batches, with equal weight for each image."""
    sums: dict[str, list[Tensor]] = {}
    images = 0
    for batch in batches:
        attentions = attention(model, batch, layers)
        images += len(attentions[0].parts)
        for one in attentions:
            values = [mean_distance(one), *entropy(one)]
            total = sums.get(one.name, [torch.zeros(1)] * 3)
            sums[one.name] = [a + b.sum(0) for a, b in zip(total, values, strict=True)]
    return [Profile(name, *(s / images for s in three)) for name, three in sums.items()]


def mean_distance(one: LayerAttention) -> Tensor:
    """The distance in pixels between the centres of a query's cell and its keys' cells, weighted by attention, the mean
    over the queries: [B h] (Dosovitskiy et al. 2020, figure 7). A reduced key is at the centre of its cells.

    Tokens without a position and padding are excluded, and the other weights normalised to a sum of one.
    """
    queries, keys = token_positions(one.query_index, one.queries), token_positions(one.key_index, one.keys)
    if not one.queries.maps or not one.keys.maps:
        return one.parts.new_full((one.parts.shape[0], one.parts.shape[2]), float("nan"))
    here, there = one.queries.centres[queries.clamp(min=0)], one.keys.centres[keys.clamp(min=0)]  # [g n 2], [g m 2]
    distances = torch.cdist(here, there, compute_mode="donot_use_mm_for_euclid_dist")  # [g n m]
    weights = one.parts * (keys >= 0)[:, None, None]
    mean = torch.einsum("bghnm,gnm->bghn", weights, distances) / weights.sum(-1).clamp(min=TINY)
    return over_queries(mean, queries >= 0)


def entropy(one: LayerAttention) -> tuple[Tensor, Tensor]:
    """-sum w log w over all keys, the mean over all queries, in nats, and the mean share of log N for the N keys that a
    query can attend to: [B h] each. The share is 0 for a query with one key."""
    parts, real = one.parts, one.query_index >= 0
    nats = torch.special.entr(parts).sum(-1)  # [B g h n]
    most = (parts > TINY).sum(-1).clamp(min=1).float().log()
    share = torch.where(most > 0, nats / most.clamp(min=TINY), torch.zeros_like(nats))
    return over_queries(nats, real), over_queries(share, real)


def token_positions(index: Tensor, side: Side) -> Tensor:
    """The cells at indices of the sequence; -1 where there is none."""
    return torch.where((index >= side.leading) & (index < side.leading + side.cells), index - side.leading, -1)


def over_queries(values: Tensor, counted: Tensor) -> Tensor:
    """The mean of [B g h n] over those queries [g n] that count: [B h]."""
    return torch.einsum("bghn,gn->bh", values, counted.to(values)) / counted.sum()
