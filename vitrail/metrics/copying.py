"""Whether made images are copies: how near they lie to the images that were learned from, against held-out ones.

Source: Meehan et al. 2020 (arxiv.org/abs/2004.05675), whose test also ranks both kinds by their distance to the training images.
"""

from collections.abc import Iterable
from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from vitrail.metrics.generation import CHUNK, distances


class Nearest(NamedTuple):
    """The nearest of many to each of Q, in rising order: how far they are, and which, [Q k] each."""

    distances: Tensor
    indices: Tensor


class CopyingStatistics(NamedTuple):
    """relative: the median distance of made images in parts of that of held-out ones. closer: the share of all pairs of a made and a
    held-out image of which the made one lies closer. deviations: how far that is from a half, in standard deviations of chance. nearer:
    how many made ones lie closer than every held-out one."""

    relative: float
    closer: float
    deviations: float
    nearer: int


def nearest_neighbors(queries: Tensor, pieces: Iterable[tuple[Tensor, Tensor]], k: int) -> Nearest:
    """Of `queries` [Q D], or the nearer of several views [V Q D] of them; `pieces` come in pieces [n D] with their places [n]."""
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
    """Of the distances of both kinds to their nearest training images, [M] and [H]."""
    made, held_out = made.double(), held_out.double()
    m, h = len(made), len(held_out)
    pairs = made[:, None] - held_out
    closer = float((pairs < 0).double().mean() + (pairs == 0).double().mean() / 2)
    chance = sqrt((m + h + 1) / (12 * m * h))  # of the statistic of Mann & Whitney, without ties
    relative = float(made.median() / held_out.median().clamp(min=1e-12))
    return CopyingStatistics(relative, closer, (closer - 0.5) / chance, int((made < held_out.min()).sum()))
