"""Similarity of generated to real images, by features of both: Frechet distance, precision and recall, density and
coverage.

Sources: Heusel et al. 2017 (arxiv.org/abs/1706.08500), Kynkaanniemi et al. 2019 (arxiv.org/abs/1904.06991), Naeem et
al. 2020 (arxiv.org/abs/2002.09797). All depend on the feature network and on the number of images: values of different
networks or counts are not comparable.
"""

import torch
from torch import Tensor

NEIGHBOURS = {"precision_recall": 3, "density_coverage": 5}  # as published
CHUNK = 1024  # rows of distances in memory at a time


def compare_features(real: Tensor, generated: Tensor) -> dict[str, float]:
    """All of them, for features [N D] and [M D] of at least `min_count` images each."""
    real, generated = real.double(), generated.double()
    precision, recall = precision_recall(real, generated)
    density, coverage = density_coverage(real, generated)
    return {
        "frechet": frechet(real, generated),
        "precision": precision,
        "recall": recall,
        "density": density,
        "coverage": coverage,
    }


def min_count() -> int:
    """The least number of images of each."""
    return max(NEIGHBOURS.values()) + 1


def frechet(real: Tensor, generated: Tensor) -> float:
    """The distance of two normal distributions with the means and covariances of the features:
    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), never below 0.

    The trace of the root is that of (A C2 A)^(1/2) with A the root of C1, which is symmetric, so its eigenvalues are
    real and can be clamped at 0. The root of a product that is not symmetric has imaginary parts where covariances are
    singular.
    """
    mean1, mean2 = real.mean(0), generated.mean(0)
    cov1, cov2 = (torch.cov(f.T).reshape(f.shape[1], f.shape[1]) for f in (real, generated))
    root = symmetric_root(cov1)
    trace = torch.linalg.eigvalsh(root @ cov2 @ root).clamp(min=0).sqrt().sum()
    return max(0.0, float((mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * trace))


def symmetric_root(matrix: Tensor) -> Tensor:
    """The root of a symmetric matrix, positive semi-definite up to rounding."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def precision_recall(real: Tensor, generated: Tensor, k: int = NEIGHBOURS["precision_recall"]) -> tuple[float, float]:
    """The share of generated images inside the manifold of real ones, and of real ones inside that of generated ones:
    within the distance of an image of the others to its own k-th neighbour."""
    return share_among(generated, real, radii(real, k)), share_among(real, generated, radii(generated, k))


def density_coverage(real: Tensor, generated: Tensor, k: int = NEIGHBOURS["density_coverage"]) -> tuple[float, float]:
    """The mean number of neighbourhoods of real images that contain a generated one, divided by k; and the share of
    these that contain any."""
    reach = radii(real, k)
    hits = torch.zeros((), dtype=torch.float64)
    covered = torch.zeros(len(real), dtype=torch.bool)
    for some in generated.split(CHUNK):
        inside = distances(some, real) <= reach  # [m N]
        hits += inside.sum().cpu()
        covered |= inside.any(0).cpu()
    return float(hits) / (k * len(generated)), float(covered.double().mean())


def share_among(queries: Tensor, others: Tensor, reach: Tensor) -> float:
    """The share of `queries` that is within `reach` [N] of some of `others` [N D]."""
    return sum(float((distances(some, others) <= reach).any(1).sum()) for some in queries.split(CHUNK)) / len(queries)


def radii(features: Tensor, k: int) -> Tensor:
    """The distance of each to its k-th neighbour other than itself, [N]."""
    return torch.cat([distances(some, features).kthvalue(k + 1, dim=1).values for some in features.split(CHUNK)])


def distances(a: Tensor, b: Tensor) -> Tensor:
    """[n D], [m D] -> [n m]; exact differences, so that equal ones have distance 0."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
