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


def nearest_neighbors(queries: Tensor, chunks: Iterable[tuple[Tensor, Tensor]], k: int) -> Nearest:
    """The nearest neighbours of `queries` [Q D], or of the nearest of several views [V Q D] of them; `pieces`: chunks
    of features [n D] with their indices [n]."""
    views = queries if queries.ndim == 3 else queries[None]
    count = views.shape[1]
    best = Nearest(views.new_zeros(count, 0), torch.zeros(count, 0, dtype=torch.int64, device=views.device))
    for chunk, indices in chunks:
        for part, where in zip(chunk.split(CHUNK), indices.to(views.device).split(CHUNK), strict=True):
            distance = torch.stack([distances(view, part) for view in views]).amin(0)  # [Q n]
            candidates = torch.cat([best.distances, distance], 1)
            candidate_indices = torch.cat([best.indices, where.expand(count, -1)], 1)
            nearest = candidates.topk(min(k, candidates.shape[1]), dim=1, largest=False)
            best = Nearest(nearest.values, candidate_indices.gather(1, nearest.indices))
    return best


def compare_distances(generated: Tensor, held_out: Tensor) -> CopyingStatistics:
    """The statistics of the distances of generated [M] and held-out images [H] to their nearest training images."""
    generated, held_out = generated.double(), held_out.double()
    m, h = len(generated), len(held_out)
    pairs = generated[:, None] - held_out
    closer = float((pairs < 0).double().mean() + (pairs == 0).double().mean() / 2)
    chance = sqrt((m + h + 1) / (12 * m * h))  # of the statistic of Mann & Whitney, without ties
    relative = float(generated.median() / held_out.median().clamp(min=1e-12))
    return CopyingStatistics(relative, closer, (closer - 0.5) / chance, int((generated < held_out.min()).sum()))
