"""Evaluation of frozen features: a linear probe and k-nearest-neighbour classification, on precomputed features.

Linear probe: multinomial logistic regression (binary ones per class for multi-label data) on standardised features, its
L2 strength chosen on a validation part of the training features. Nearest neighbours: cosine similarity s, the k most
similar vote with weight exp(s / 0.07) (Wu et al. 2018, arXiv:1805.01978; DINO, Caron et al. 2021, arXiv:2104.14294).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vitrail.metrics.classification import multi_label, single_label

L2_STRENGTHS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)  # strengths of the L2 penalty to try, strongest first
MIDDLE = 1e-3  # where there are too few features for a validation part
HELD_OUT = 0.2  # share of the training features for validation
TEMPERATURE = 0.07
SIMILARITIES = 2**24  # in memory at a time
ITERATIONS = 300


class LinearProbe(NamedTuple):
    """A fitted probe: standardised features [N D] @ weight [D K] + bias [K] are logits."""

    mean: Tensor
    std: Tensor
    weight: Tensor
    bias: Tensor

    def probabilities(self, features: Tensor, several: bool) -> Tensor:
        logits = (features - self.mean) / self.std @ self.weight + self.bias
        return logits.sigmoid() if several else logits.softmax(1)


class L2Choice(NamedTuple):
    """The chosen L2 strength, and the score of each candidate: top-1, or mAP; empty without a validation part."""

    l2: float
    scores: dict[float, float]


def draw_subset(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Indices of a share of the images, ascending. labels: class indices [N], or multi-hot [N K].

    The same share of each class, at least one image; for multi-label data, that share of all images, and one more for
    every class that would have none. A smaller share of the same seed is a subset of a larger one.
    """
    if labels.ndim == 1:
        members = [np.flatnonzero(labels == c) for c in np.unique(labels)]
        return np.sort(np.concatenate([sample_members(m, share, seed, c) for c, m in enumerate(members)]))
    chosen = sample_members(np.arange(len(labels)), share, seed, 0)
    for c in np.flatnonzero(labels.any(0)):
        if not labels[chosen, c].any():
            chosen = np.append(chosen, sample_members(np.flatnonzero(labels[:, c]), 0.0, seed, int(c) + 1))
    return np.unique(chosen)


def sample_members(members: np.ndarray, share: float, seed: int, purpose: int) -> np.ndarray:
    """A random share of the members, at least one."""
    chance = np.random.Generator(np.random.Philox(key=np.array([seed, purpose], np.uint64)))
    return chance.permutation(members)[: max(1, round(share * len(members)))]


def fit_probe(
    features: Tensor, labels: Tensor, classes: int, l2: float, start: LinearProbe | None = None
) -> LinearProbe:
    """Minimises the mean loss + l2/2 |weight|^2 over features [N D] by full-batch L-BFGS; the objective is convex.

    labels: class indices [N], or multi-hot [N K]: then the loss of an image is the sum over its classes. start: the
    initial probe.
    """
    mean, std = features.mean(0), features.std(0, correction=0)
    std = torch.where(std > 1e-6 * (1 + mean.abs()), std, torch.ones_like(std))  # a feature may be constant
    x = (features - mean) / std
    weight = x.new_zeros(x.shape[1], classes) if start is None else start.weight.clone()
    bias = x.new_zeros(classes) if start is None else start.bias.clone()
    parameters = [weight.requires_grad_(), bias.requires_grad_()]
    exact = x.dtype == torch.float64
    solver = torch.optim.LBFGS(
        parameters, max_iter=ITERATIONS, history_size=10, line_search_fn="strong_wolfe",
        tolerance_grad=1e-7 if exact else 1e-5, tolerance_change=1e-12 if exact else 1e-8,
    )  # fmt: skip

    def objective() -> Tensor:
        solver.zero_grad()
        value = loss(x @ weight + bias, labels) + 0.5 * l2 * weight.square().sum()
        value.backward()
        return value.detach()

    solver.step(objective)
    return LinearProbe(mean, std, weight.detach(), bias.detach())


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    if labels.ndim == 1:
        return F.cross_entropy(logits, labels)
    return F.binary_cross_entropy_with_logits(logits, labels.to(logits), reduction="none").sum(1).mean()


def choose_l2(
    features: Tensor, labels: Tensor, classes: int, seed: int, strengths: Sequence[float] = L2_STRENGTHS
) -> L2Choice:
    """The L2 strength whose probe, fitted on the larger part of the features, is best on the rest: by score, then by
    loss."""
    train, validation = split_off(labels.cpu().numpy(), seed)
    if not len(validation):
        return L2Choice(MIDDLE, {})
    x, y = features[train], labels[train]
    scores: dict[float, float] = {}
    ranks: dict[float, tuple[float, float]] = {}
    probe = None
    for l2 in sorted(strengths, reverse=True):
        probe = fit_probe(x, y, classes, l2, probe)
        logits = (features[validation] - probe.mean) / probe.std @ probe.weight + probe.bias
        probabilities = logits.sigmoid() if labels.ndim == 2 else logits.softmax(1)
        scores[l2] = score(probabilities, labels[validation])
        ranks[l2] = (scores[l2], -float(loss(logits, labels[validation])))
    return L2Choice(max(ranks, key=lambda l2: ranks[l2]), scores)


def split_off(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices for training and for validation. A class of one image is in the training part."""
    if labels.ndim == 1:
        parts = [m if len(m) == 1 else sample_members(m, 1 - HELD_OUT, seed, c)[: len(m) - 1]
                for c, m in enumerate(np.flatnonzero(labels == c) for c in np.unique(labels))]  # fmt: skip
        chosen = np.sort(np.concatenate(parts))
    else:
        chosen = draw_subset(labels, 1 - HELD_OUT, seed)
    return chosen, np.setdiff1d(np.arange(len(labels)), chosen)


def score(probabilities: Tensor, labels: Tensor) -> float:
    """Top-1 of probabilities, or mAP for multi-label data."""
    if labels.ndim == 1:
        return float((probabilities.argmax(1) == labels).double().mean())
    return multi_label(probabilities.float().cpu(), labels.cpu())["mAP"]


def knn_probabilities(
    train: Tensor, labels: Tensor, queries: Tensor, classes: int, ks: Sequence[int]
) -> dict[int, Tensor]:
    """For each k the share of votes [M K] of each class among the k training features [N D] nearest to each query [M
    D].

    Queries are compared in chunks of at most `SIMILARITIES` numbers; of N < k neighbours all vote.
    """
    unit = F.normalize(train, dim=1)
    each = max(1, SIMILARITIES // max(1, len(train)))
    most = min(max(ks), len(train))
    parts_by_k: dict[int, list[Tensor]] = {k: [] for k in ks}
    for start in range(0, len(queries), each):
        similar = F.normalize(queries[start : start + each], dim=1) @ unit.T
        near = similar.topk(most, dim=1)  # in falling order, so that the first k are the k nearest
        weights = ((near.values - near.values[:, :1]) / TEMPERATURE).exp()  # relative to the nearest, to avoid overflow
        neighbour_labels = labels[near.indices]
        for k in ks:
            votes = weights.new_zeros(len(similar), classes).scatter_add_(1, neighbour_labels[:, :k], weights[:, :k])
            parts_by_k[k].append(votes / votes.sum(1, keepdim=True))
    return {k: torch.cat(parts) for k, parts in parts_by_k.items()}


def probe_metrics(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """The scalar metrics of probabilities [N K], by name."""
    metrics = (single_label if labels.ndim == 1 else multi_label)(probabilities.float().cpu(), labels.cpu())
    return {name: value for name, value in metrics.items() if isinstance(value, float)}
