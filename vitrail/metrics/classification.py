"""Metrics of classification, of a few lines each: importing torchmetrics for them takes as long as torch itself, and
280 MB of memory. The tests hold them against it."""

from typing import Any

import torch
from torch import Tensor

BINS = 15
TOP = 5  # classes that may be named, in the metric top5


def single_label(probabilities: Tensor, targets: Tensor) -> dict[str, Any]:
    """probabilities [N K], class indices [N] -> scalars by name; "per_class" lists; "confusion" [K K], rows
    annotations, columns predictions; "calibration": rows of (mean confidence, accuracy, count) per bin. Calibration
    error is over 15 equal bins (Guo et al. 2017). "top5" is there for six classes or more: of fewer it is always 1."""
    n, k = probabilities.shape
    confusion = confusion_matrix(probabilities.argmax(1), targets, k)
    precision, recall, f1 = precision_recall_f1(confusion)
    ranked = probabilities.topk(min(TOP, k)).indices == targets[:, None]
    target_probability = probabilities.clamp_min(1e-12).gather(1, targets[:, None])
    scalars: dict[str, Tensor | float] = {
        "top1": ranked[:, 0].float().mean(),
        **({"top5": ranked.any(1).float().mean()} if k > TOP else {}),
        "macro_f1": f1[confusion.sum(1) > 0].mean(),
        "nll": -target_probability.log().mean(),
        "calibration_error": calibration_error(probabilities.max(1).values, ranked[:, 0]) if k > 1 else 0.0,
    }
    columns = {"precision": precision, "recall": recall, "f1": f1, "count": confusion.sum(1)}
    return {
        **{name: float(value) for name, value in scalars.items()},
        "count": n,
        "per_class": {name: column.tolist() for name, column in columns.items()},
        "confusion": confusion.tolist(),
        "calibration": calibration(probabilities.max(1).values, ranked[:, 0]),
    }


def confusion_matrix(predictions: Tensor, targets: Tensor, classes: int) -> Tensor:
    """Class indices [N] each -> int64 [K K]: rows annotations, columns predictions."""
    return torch.bincount(targets * classes + predictions, minlength=classes**2).reshape(classes, classes)


def calibration_error(confidence: Tensor, right: Tensor) -> float:
    """The mean difference of confidence [N] and accuracy, bin by bin of confidence, weighted by the images in each
    (Guo et al. 2017); a confidence of exactly 1 is a bin of its own, as in torchmetrics."""
    edges = torch.linspace(0, 1, BINS + 1, dtype=confidence.dtype, device=confidence.device)
    which = torch.bucketize(confidence, edges, right=True) - 1
    difference = torch.zeros(BINS + 1, dtype=torch.float64, device=confidence.device)
    difference.index_add_(0, which, confidence.double() - right.double())
    return float(difference.abs().sum()) / len(confidence)


def precision_recall_f1(confusion: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Precision, recall and F1 of every class, 0 where nothing is predicted or nothing annotated."""
    hit = confusion.diag().double()
    precision = hit / confusion.sum(0).clamp_min(1)
    recall = hit / confusion.sum(1).clamp_min(1)
    return precision, recall, 2 * precision * recall / (precision + recall).clamp_min(1e-12)


def calibration(confidence: Tensor, right: Tensor) -> list[list[float]]:
    """Per bin of confidence: mean confidence, accuracy, count. Empty bins are omitted."""
    which = (confidence * BINS).long().clamp(0, BINS - 1)
    rows = []
    for b in which.unique().tolist():
        inside = which == b
        rows.append([float(confidence[inside].mean()), float(right[inside].float().mean()), int(inside.sum())])
    return rows


def multi_label(probabilities: Tensor, targets: Tensor) -> dict[str, Any]:
    """probabilities [N K], multi-hot [N K] -> mean average precision, F1 at 0.5, exact matches, and the same per
    class: zeros for a class that no image has, which is in none of the means."""
    annotation = targets.long()
    average = torch.zeros(probabilities.shape[1])
    for k in annotation.sum(0).nonzero().flatten().tolist():  # of a class that no image has there is none
        average[k] = average_precision(probabilities[:, k], annotation[:, k])
    prediction = probabilities >= 0.5
    hit, predicted, positive = (x.sum(0).double() for x in (prediction & annotation.bool(), prediction, annotation))
    precision, recall = hit / predicted.clamp_min(1), hit / positive.clamp_min(1)
    f1 = 2 * precision * recall / (precision + recall).clamp_min(1e-12)
    present = positive > 0
    return {
        "mAP": float(average[present].mean()) if bool(present.any()) else 0.0,
        "macro_f1": float(f1[present].mean()) if bool(present.any()) else 0.0,
        "exact": float((prediction == annotation.bool()).all(1).float().mean()),
        "count": len(probabilities),
        "per_class": {
            "precision": precision.tolist(), "recall": recall.tolist(), "f1": f1.tolist(),
            "average_precision": average.tolist(), "count": positive.long().tolist(),
        },
    }  # fmt: skip


def average_precision(scores: Tensor, targets: Tensor) -> float:
    """Scores [N] of 0 or 1 each -> the precision at each recall, averaged without interpolation; images of one score
    count together. There must be a 1."""
    ranked, order = scores.sort(descending=True, stable=True)
    hits = targets[order].double().cumsum(0)
    last = torch.cat([(ranked[1:] != ranked[:-1]).nonzero().flatten(), torch.tensor([len(ranked) - 1]).to(order)])
    precision, recall = hits[last] / (last + 1), hits[last] / hits[-1]
    return float((precision * recall.diff(prepend=recall.new_zeros(1))).sum())
