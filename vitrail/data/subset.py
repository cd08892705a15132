"""Some of many images: a share of the training images, to see how much data a model needs, and a few, evenly spaced."""

import numpy as np

WORST, SPACED = 8, 6  # images that are shown of many


def evenly_spaced(count: int, most: int) -> np.ndarray:
    """At most so many places of `count`, int64, evenly spaced from the first to the last."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))


def stratified_subset(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Places of a share of the images, in ascending order: the same share of every class, at least one of each.

    `labels`: class indices [N], or multi-hot [N K], of which any are taken. A smaller share of the same seed lies within a larger.
    """
    shuffled = np.random.Generator(np.random.Philox(key=np.array([seed, 1 << 48], np.uint64))).permutation(len(labels))
    if labels.ndim == 2:
        return np.sort(shuffled[: max(1, round(share * len(labels)))])
    parts = [shuffled[labels[shuffled] == k] for k in np.unique(labels)]
    return np.sort(np.concatenate([part[: max(1, round(share * len(part)))] for part in parts]))


def worst_and_spaced(scores: np.ndarray) -> list[int]:
    """Places of images to be shown: the worst, the worst first, and some evenly spaced through all by their score."""
    order = np.argsort(scores, kind="stable")
    some = order[np.linspace(0, len(order) - 1, min(SPACED, len(order))).astype(int)]
    return list(dict.fromkeys([*order[:WORST].tolist(), *some.tolist()]))
