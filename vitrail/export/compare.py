"""Outputs of an exported model against those of torch: how far apart, and whether answers differ."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

TOLERANCE = 1e-4  # largest relative error of an output
TINY = 1e-12
EXCHANGED = 0.01  # largest share of boxes at the lowest score of all, where rounding decides which candidates are in
TIES = 1000  # boxes, of which one may have two classes that are equally likely


class Difference(NamedTuple):
    """error: the largest, relative to the largest value of the output. changed: answers that differ, of so many
    `answers`; beyond: those among them that torch gave by a margin which such an error cannot explain."""

    error: float
    answers: int = 0
    changed: int = 0
    beyond: int = 0


Outputs = Mapping[str, np.ndarray]


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """max |a - b| / max |b|; infinite where shapes differ or what is not finite is not the same on both sides."""
    if ours.shape != theirs.shape:
        return float("inf")
    if not theirs.size:
        return 0.0
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    same = np.isfinite(b)
    if not np.isfinite(a[same]).all() or not np.array_equal(a[~same], b[~same], equal_nan=True):
        return float("inf")
    return float(np.abs(a[same] - b[same]).max(initial=0.0) / max(TINY, np.abs(b[same]).max(initial=0.0)))


def count_changes(changed: np.ndarray, margin: np.ndarray, scale: float) -> tuple[int, int, int]:
    """Of answers with a margin each: how many, how many changed, and how many of these by more than two errors."""
    return changed.size, int(changed.sum()), int((changed & (margin > 2 * TOLERANCE * scale)).sum())


def top_margin(scores: np.ndarray, axis: int) -> np.ndarray:
    """The best score minus the second best along an axis; infinite where there is only one."""
    if scores.shape[axis] == 1:
        return np.full(np.delete(scores.shape, axis), np.inf)
    best = -np.partition(-scores, 1, axis=axis)
    return np.asarray(best.take(0, axis) - best.take(1, axis))


def compare_classes(ours: Outputs, theirs: Outputs, multi_label: bool) -> Difference:
    """Probabilities [B K]: the answer is the likeliest class, or with several labels whether each is at least 0.5."""
    a, b = ours["probabilities"], theirs["probabilities"]
    error = relative_error(a, b)
    if a.shape != b.shape:
        return Difference(error, len(b), len(b), len(b))
    scale = float(np.abs(b).max(initial=0.0))
    if multi_label:
        return Difference(error, *count_changes((a >= 0.5) != (b >= 0.5), np.abs(b - 0.5), scale))
    return Difference(error, *count_changes(a.argmax(1) != b.argmax(1), top_margin(b, 1), scale))


def compare_logits(ours: Outputs, theirs: Outputs, multi_label: bool) -> Difference:
    return Difference(relative_error(ours["logits"], theirs["logits"]))


def compare_masks(ours: Outputs, theirs: Outputs, multi_label: bool) -> Difference:
    """Label maps [B H W]: an answer a pixel, its margin between the two best logits."""
    a, b, logits = ours["masks"], theirs["masks"], theirs["logits"]
    if a.shape != b.shape:
        return Difference(float("inf"), b.size, b.size, b.size)
    scale = float(np.abs(logits).max(initial=0.0))
    return Difference(0.0, *count_changes(a != b, top_margin(logits, 1), scale))


def compare_boxes(ours: Outputs, theirs: Outputs, multi_label: bool) -> Difference:
    """Boxes [B Q 6]: every one of torch's against the nearest of ours, since two of the same score may come in either
    order. Edges are relative to the largest, scores are as they are; an answer is the class of a box. Of the best of
    more candidates the last ones may be others, of the same score (`EXCHANGED`). By how much a class was the likeliest
    is not among the outputs: one answer of `TIES` with the same score counts as a tie."""
    from scipy.optimize import linear_sum_assignment

    a, b = ours["boxes"].astype(np.float64), theirs["boxes"].astype(np.float64)
    count = b.shape[0] * b.shape[1]
    if a.shape != b.shape or not np.isfinite(a).all() or not np.isfinite(b).all():
        return Difference(float("inf"), count, count, count)
    scale = max(TINY, float(np.abs(b[..., :4]).max(initial=0.0)))
    error, changed, apart_scores = 0.0, 0, 0
    for mine, torchs in zip(a, b, strict=True):
        edges = np.abs(torchs[:, None, :4] - mine[None, :, :4]).max(-1) / scale
        apart = np.maximum(edges, np.abs(torchs[:, None, 4] - mine[None, :, 4]))  # [Q Q]
        is_other = torchs[:, None, 5] != mine[None, :, 5]
        rows, columns = linear_sum_assignment(apart + is_other)
        far, other = apart[rows, columns], is_other[rows, columns]
        is_near = np.abs(torchs[rows, 4] - mine[columns, 4]) <= TOLERANCE
        last = (torchs[rows, 4] <= torchs[:, 4].min(initial=1.0) + TOLERANCE) & ((far > TOLERANCE) | other) & is_near
        if last.sum() <= EXCHANGED * len(torchs):
            far, other, is_near = far[~last], other[~last], is_near[~last]
        error = max(error, float(far.max(initial=0.0)))
        changed += int(other.sum())
        apart_scores += int((other & ~is_near).sum())
    return Difference(error, count, changed, changed if changed > count // TIES else apart_scores)


def compare_features(ours: Outputs, theirs: Outputs, multi_label: bool) -> Difference:
    """Features [B E]: the answer of an image is which other one of the batch is most similar, by the cosine.
    Of fewer than three images there is no choice, and no answer is counted."""
    a, b = ours["features"], theirs["features"]
    error = relative_error(a, b)
    if len(b) < 3 or not np.isfinite(error):
        return Difference(error)
    mine, torchs = (cosine_similarities(x.astype(np.float64)) for x in (a, b))
    return Difference(error, *count_changes(mine.argmax(1) != torchs.argmax(1), top_margin(torchs, 1), 1.0))


def cosine_similarities(features: np.ndarray) -> np.ndarray:
    """The cosine of every row of features [B E] with every other one, [B B]; -2 with itself, below all of them."""
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), TINY)
    cosines = np.asarray(unit @ unit.T)
    np.fill_diagonal(cosines, -2.0)
    return cosines


def compare_attention(ours: Outputs, theirs: Outputs, multi_label: bool) -> Difference:
    return Difference(relative_error(ours["attention"], theirs["attention"]))


COMPARE: dict[str, Callable[[Outputs, Outputs, bool], Difference]] = {  # by the name of an output
    "probabilities": compare_classes, "logits": compare_logits, "masks": compare_masks, "boxes": compare_boxes,
    "features": compare_features, "attention": compare_attention,
}  # fmt: skip
