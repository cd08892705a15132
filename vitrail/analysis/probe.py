"""Evaluation of frozen features: a linear probe and k-nearest-neighbour classification, on precomputed features.

Linear probe: multinomial logistic regression (binary ones per class for multi-label data) on standardised features, its
L2 strength chosen by cross-validation on the training features. Nearest neighbours: cosine similarity s, the k most
similar vote with weight exp(s / 0.07) (Wu et al. 2018, arXiv:1805.01978; DINO, Caron et al. 2021, arXiv:2104.14294).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vitrail.metrics.classification import multi_label, single_label

L2_STRENGTHS = tuple(10 ** (half / 2) for half in range(2, -13, -1))  # to try, strongest first: 10 to 1e-6
# Where a class has few images the loss often asks for 1 or more, which lowers the confidence of a small probe but costs
# up to 4 points of accuracy (benchmarks/heads.py).
FEW, STRONGEST_OF_FEW = 20, 0.1
MIDDLE = 1e-2  # where there are too few features to hold any out
FOLDS = 5  # parts of the training features that are held out in turn
ENOUGH = 2_000  # features that are held out in all; of more, fewer parts are
PATIENCE = 2  # strengths that are worse than the best one, in a row, before weaker ones are not tried
ALWAYS = -1  # the part of features that are never held out
TEMPERATURE = 0.07
SIMILARITIES = 2**24  # in memory at a time
ITERATIONS = 300


class LinearProbe(NamedTuple):
    """A fitted probe: standardised features [N D] @ weight [D K] + bias [K] are logits."""

    mean: Tensor
    std: Tensor
    weight: Tensor
    bias: Tensor

    def logits(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.std @ self.weight + self.bias

    def probabilities(self, features: Tensor, several: bool) -> Tensor:
        return self.logits(features).sigmoid() if several else self.logits(features).softmax(1)


class L2Choice(NamedTuple):
    """The chosen L2 strength, and the score of each that was tried on what was held out: top-1, or mAP; empty where
    nothing could be."""

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
    features: Tensor, labels: Tensor, classes: int, l2: float, start: LinearProbe | None = None, is_rough: bool = False
) -> LinearProbe:
    """Minimises the mean loss + l2/2 |weight|^2 over features [N D] by full-batch L-BFGS; the objective is convex.

    labels: class indices [N], or multi-hot [N K]: then the loss of an image is the sum over its classes. start: the
    initial probe. is_rough: to a gradient of 1e-5, enough to compare losses.
    """
    mean, std = features.mean(0), features.std(0, correction=0)
    std = torch.where(std > 1e-6 * (1 + mean.abs()), std, torch.ones_like(std))  # a feature may be constant
    x = (features - mean) / std
    weight = x.new_zeros(x.shape[1], classes) if start is None else start.weight.clone()
    bias = x.new_zeros(classes) if start is None else start.bias.clone()
    parameters = [weight.requires_grad_(), bias.requires_grad_()]
    exact = x.dtype == torch.float64 and not is_rough
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
    """The L2 strength whose probes predict best, by the mean loss, what was held out of them: the loss is that of all
    held-out features together, and ranks strengths by far fewer of them than their accuracy would.

    The loss falls and then rises with a weaker penalty, so the weakest ones, whose fits take longest, are tried only
    where they help. It is compared to six decimals: further ones differ between machines.
    """
    folds = draw_folds(labels.cpu().numpy(), seed)
    used = range(min(FOLDS, -(-ENOUGH * FOLDS // len(folds))))
    held_out = [torch.from_numpy(folds == i).to(features.device) for i in used if (folds == i).any()]
    if not held_out:
        return L2Choice(MIDDLE, {})
    targets = torch.cat([labels[part] for part in held_out])
    scores: dict[float, float] = {}
    losses: list[float] = []
    counts = labels.bincount() if labels.ndim == 1 else labels.sum(0)
    strongest = STRONGEST_OF_FEW if int(counts[counts > 0].min()) < FEW else max(strengths)
    ordered = sorted((l2 for l2 in strengths if l2 <= strongest), reverse=True)
    probes: list[LinearProbe | None] = [None] * len(held_out)
    for l2 in ordered:
        probes = [fit_probe(features[~part], labels[~part], classes, l2, probe, is_rough=True)
                  for part, probe in zip(held_out, probes, strict=True)]  # fmt: skip
        logits = torch.cat([p.logits(features[part]) for part, p in zip(held_out, probes, strict=True) if p])
        scores[l2] = score(logits.sigmoid() if labels.ndim == 2 else logits.softmax(1), targets)
        losses.append(round(float(loss(logits, targets)), 6))
        best = losses.index(min(losses))
        if len(losses) - 1 - best >= PATIENCE:
            break
    return L2Choice(ordered[best], scores)


def draw_folds(labels: np.ndarray, seed: int) -> np.ndarray:
    """The part 0 to `FOLDS` - 1 of every feature [N], of equal sizes and of every class alike, or `ALWAYS` for one
    without which its class would be held out whole. labels: class indices [N], or multi-hot [N K]."""
    several = labels.ndim == 2
    groups = [np.arange(len(labels))] if several else [np.flatnonzero(labels == c) for c in np.unique(labels)]
    dealt = np.concatenate([sample_members(members, 1.0, seed, c) for c, members in enumerate(groups)])
    folds = np.empty(len(labels), np.int64)
    folds[dealt] = np.arange(len(labels)) % FOLDS
    classes = [np.flatnonzero(column) for column in labels.T] if several else groups
    for members in classes:
        if len(members) and (folds[members] == folds[members[0]]).all():
            folds[members[0]] = ALWAYS
    return folds


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
