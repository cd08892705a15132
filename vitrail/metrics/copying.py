"""Copying of training images by a generative model: distances of generated and of held-out images to training images.

Source: Meehan et al. 2020 (arxiv.org/abs/2004.05675), whose test also ranks both kinds by their distance to the
training images.
"""

from collections.abc import Iterable
from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from vitrail.metrics.generation import CHUNK, distances


class Nearest(NamedTuple):
    """The nearest neighbours of each of Q queries, nearest first: distances and indices, [Q k] each."""

    distances: Tensor
    indices: Tensor


class CopyingStatistics(NamedTuple):
    """relative: the median distance of generated images divided by that of held-out ones. closer: the share of all
    pairs of a generated and a held-out image in which the generated one is closer. deviations: its z-score, the
    difference from one half in standard deviations. nearer: the number of generated images closer than every held-out
    one."""

    relative: float
    closer: float
    deviations: float
    nearer: int


def nearest_neighbors(queries: Tensor, pieces: Iterable[tuple[Tensor, Tensor]], k: int) -> Nearest:
    """The nearest neighbours of `queries` [Q D], or of the nearest of several views [V Q D] of them; `pieces`: chunks
    of features [n D] with their indices [n]."""
    views = queries if queries.ndim == 3 else queries[None]
    count = views.shape[1]
    best = Nearest(views.new_zeros(count, 0), torch.zeros(count, 0, dtype=torch.int64, device=views.device))
    for piece, places in pieces:
        for some, where in zip(piece.split(CHUNK), places.to(views.device).split(CHUNK), strict=True):
            far = torch.stack([distances(view, some) for view in views]).amin(0)  # [Q n]
            together = torch.cat([best.distances, far], 1)
            named = torch.cat([best.indices, where.expand(count, -1)], 1)
            kept = together.topk(min(k, together.shape[1]), dim=1, largest=False)
            best = Nearest(kept.values, named.gather(1, kept.indices))
    return best


def compare_distances(made: Tensor, held_out: Tensor) -> CopyingStatistics:
    """The statistics of the distances of generated [M] and held-out images [H] to their nearest training images."""
    made, held_out = made.double(), held_out.double()
    m, h = len(made), len(held_out)
    pairs = made[:, None] - held_out
    closer = float((pairs < 0).double().mean() + (pairs == 0).double().mean() / 2)
    chance = sqrt((m + h + 1) / (12 * m * h))  # of the statistic of Mann & Whitney, without ties
    relative = float(made.median() / held_out.median().clamp(min=1e-12))
    return CopyingStatistics(relative, closer, (closer - 0.5) / chance, int((made < held_out.min()).sum()))
