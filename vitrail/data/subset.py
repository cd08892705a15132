"""Subsets of images: a stratified fraction of the training images, evenly spaced images, the worst images."""

import numpy as np

WORST, SPACED = 8, 6  # images of a report


def evenly_spaced(count: int, most: int) -> np.ndarray:
    """At most `most` indices of `count`, int64, evenly spaced from the first to the last."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))


def stratified_subset(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Indices of a fraction of the images, ascending: the same fraction of every class, at least one of each.

    `labels`: class indices [N], or multi-hot [N K], which are not stratified. With one seed, a smaller fraction is a
    subset of a larger one.
    """
    shuffled = np.random.Generator(np.random.Philox(key=np.array([seed, 1 << 48], np.uint64))).permutation(len(labels))
    if labels.ndim == 2:
        return np.sort(shuffled[: max(1, round(fraction * len(labels)))])
    parts = [shuffled[labels[shuffled] == k] for k in np.unique(labels)]
    return np.sort(np.concatenate([part[: max(1, round(fraction * len(part)))] for part in parts]))


def worst_and_spaced(scores: np.ndarray) -> list[int]:
    """Indices of images for a report: the worst, worst first, and some evenly spaced by score."""
    order = np.argsort(scores, kind="stable")
    spaced = order[np.linspace(0, len(order) - 1, min(SPACED, len(order))).astype(int)]
    return list(dict.fromkeys([*order[:WORST].tolist(), *spaced.tolist()]))
