"""Metrics of classification, computed by torchmetrics."""

from typing import Any

import torch
from torch import Tensor

BINS = 15
TOP = 5  # classes that may be named, in the metric top5


def single_label(probabilities: Tensor, targets: Tensor) -> dict[str, Any]:
    """probabilities [N K], class indices [N] -> scalars by name; "per_class" lists; "confusion" [K K], rows
    annotations, columns predictions; "calibration": rows of (mean confidence, accuracy, count) per bin. Calibration
    error is over 15 equal bins (Guo et al. 2017). "top5" is there for six classes or more: of fewer it is always 1."""
    from torchmetrics.functional import classification as tm

    n, k = probabilities.shape
    confusion = tm.multiclass_confusion_matrix(probabilities, targets, k) if k > 1 else torch.tensor([[n]])
    precision, recall, f1 = precision_recall_f1(confusion)
    ranked = probabilities.topk(min(TOP, k)).indices == targets[:, None]
    target_probability = probabilities.clamp_min(1e-12).gather(1, targets[:, None])
    scalars = {
        "top1": ranked[:, 0].float().mean(),
        **({"top5": ranked.any(1).float().mean()} if k > TOP else {}),
        "macro_f1": f1[confusion.sum(1) > 0].mean(),
        "nll": -target_probability.log().mean(),
        "calibration_error": tm.multiclass_calibration_error(probabilities, targets, k, n_bins=BINS)
        if k > 1
        else torch.tensor(0.0),
    }
    columns = {"precision": precision, "recall": recall, "f1": f1, "count": confusion.sum(1)}
    return {
        **{name: float(value) for name, value in scalars.items()},
        "count": n,
        "per_class": {name: column.tolist() for name, column in columns.items()},
        "confusion": confusion.tolist(),
        "calibration": calibration(probabilities.max(1).values, ranked[:, 0]),
    }


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
    from torchmetrics.functional import classification as tm

    annotation = targets.long()
    average = torch.zeros(probabilities.shape[1])
    for k in annotation.sum(0).nonzero().flatten().tolist():  # of a class that no image has there is none
        average[k] = tm.binary_average_precision(probabilities[:, k], annotation[:, k])
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
