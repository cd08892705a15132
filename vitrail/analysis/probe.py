"""Evaluation of frozen features: a linear probe and k-nearest-neighbour classification, on precomputed features.

Linear probe: multinomial logistic regression (binary ones per class for multi-label data) on standardised features, its
L2 strength 1/N unless cross-validation on the training features finds a clearly better one. Nearest neighbours: cosine
similarity s, the k most similar vote with weight exp(s / 0.07) (Wu et al. 2018, arXiv:1805.01978; DINO, Caron et al.
2021, arXiv:2104.14294).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vitrail.metrics.classification import multi_label, single_label

L2_STRENGTHS = tuple(10 ** (half / 2) for half in range(2, -13, -1))  # to try beside 1/N: 10 to 1e-6
FOLDS = 5  # parts of the training features that are held out in turn
ENOUGH = 2_000  # features that are held out in all; of more, fewer parts are
PATIENCE = 2  # strengths that are worse than the best one, in a row, before those beyond are not tried
SHARPNESS = tuple(10 ** (step / 20) for step in range(-40, 21))  # 1 / temperature, to try: 0.01 to 10
LEAST_GAIN = 1e-4  # in the loss beyond its standard error: rough fits differ by less between machines
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
    """The chosen L2 strength and why; and the score of each that was tried on what was held out: top-1, or mAP; empty
    where nothing could be."""

    l2: float
    scores: dict[float, float]
    reason: str


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
    return image_losses(logits, labels).mean()


def image_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """The loss of each image [N]."""
    if labels.ndim == 1:
        return F.cross_entropy(logits, labels, reduction="none")
    return F.binary_cross_entropy_with_logits(logits, labels.to(logits), reduction="none").sum(1)


def calibrated_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """The loss of each image [N] at the temperature at which their mean is least."""
    at_each = (image_losses(logits * sharpness, labels) for sharpness in SHARPNESS)
    return min(at_each, key=lambda losses: float(losses.mean()))


def choose_l2(
    features: Tensor, labels: Tensor, classes: int, seed: int, strengths: Sequence[float] = L2_STRENGTHS
) -> L2Choice:
    """The L2 strength nearest to 1/N, scikit-learn's default, whose probes predict what was held out of them no worse
    than those of the best one, within one standard error (the rule of Breiman et al. 1984).

    They are compared by the loss, which ranks them by far fewer images than their accuracy would, each at its best
    temperature: the plain loss of few images asks for a penalty that lowers the confidence of the probe, at the
    accuracy's expense.
    """
    default = 1 / len(labels)
    folds = draw_folds(labels.cpu().numpy(), seed)
    used = range(min(FOLDS, -(-ENOUGH * FOLDS // len(folds))))
    held_out = [torch.from_numpy(folds == i).to(features.device) for i in used if (folds == i).any()]
    if not held_out:
        return L2Choice(default, {}, "1/N, as no image of a class can be held out")
    targets = torch.cat([labels[part] for part in held_out])
    scores: dict[float, float] = {}
    losses: dict[float, Tensor] = {}
    probes: list[LinearProbe | None] = [None] * len(held_out)
    worse = 0
    for l2 in sorted({default, *strengths}, reverse=True):
        probes = [fit_probe(features[~part], labels[~part], classes, l2, probe, is_rough=True)
                  for part, probe in zip(held_out, probes, strict=True)]  # fmt: skip
        logits = torch.cat([p.logits(features[part]) for part, p in zip(held_out, probes, strict=True) if p])
        scores[l2] = score(logits.sigmoid() if labels.ndim == 2 else logits.softmax(1), targets)
        losses[l2] = calibrated_losses(logits, targets)
        best = min(losses, key=lambda tried: round(float(losses[tried].mean()), 6))  # further ones differ by machine
        worse = 0 if best == l2 else worse + 1
        if default in losses and worse >= PATIENCE:  # fits of weaker ones take longest
            break
    by_distance = sorted(losses, key=lambda tried: abs(math.log(tried / default)))
    chosen = next(tried for tried in by_distance if not is_clearly_better(losses[best], losses[tried]))
    if chosen == default:
        return L2Choice(default, scores, "1/N; no other is clearly better in cross-validation")
    return L2Choice(chosen, scores, f"1/N, {default:.2g}, is clearly worse in cross-validation")


def is_clearly_better(losses: Tensor, others: Tensor) -> bool:
    """Whether the losses of images [N] are lower by more than one standard error of the difference, image by image."""
    gains = others - losses
    return len(gains) > 1 and float(gains.mean() - gains.std() / len(gains) ** 0.5) > LEAST_GAIN


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
