"""Metrics of detection: COCO's average precision, computed by torchmetrics and faster-coco-eval."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitrail.data.dataset import Boxes

SIZES = ("small", "medium", "large")  # objects below 32^2 pixels, below 96^2, and the rest
MOST = 100  # maximum detections per image, highest scores first; more for images with more objects
SURE, SAME = 0.3, 0.5  # for F1: the score threshold of detections and the IoU threshold of matches


def average_precision(predictions: Sequence[Any], annotations: Sequence[Boxes], classes: int) -> dict[str, Any]:
    """Predictions of each image, [n 6] of left, top, right, bottom, score, label, compared with its annotations.

    "mAP" over IoU thresholds of 0.5 to 0.95, "AP50", "AP75", "AR100", and "AP_small", "AP_medium", "AP_large" where
    there are objects of that size; "count": images; "per_class": lists "ap", "ap50", "objects"; "curves": the precision
    of each class at IoU 0.5 for recalls 0, 0.01 ... 1. A class without objects has zeros there and is not in the means
    (Lin et al. 2014, cocodataset.org).
    """
    from torchmetrics.detection import MeanAveragePrecision

    if not annotations:
        raise ValueError("there is no image to evaluate")
    # its default thresholds are rounded to float32: a recall of exactly 0.35 would be below 0.35
    metric = MeanAveragePrecision(
        iou_thresholds=np.linspace(0.5, 0.95, 10).tolist(),
        rec_thresholds=np.linspace(0, 1, 101).tolist(),
        max_detection_thresholds=[10, MOST, max([MOST, *(len(t.labels) for t in annotations)])],
        backend="faster_coco_eval",
        extended_summary=True,
    )
    metric.warn_on_many_detections = False
    metric.update(
        [prediction_columns(rows) for rows in predictions],
        [annotation_columns(annotation) for annotation in annotations],
    )
    result = metric.compute()
    # [T 101 K], -1 where there are no objects
    precision = to_all_classes(result["precision"][:, :, :, 0, -1], result["classes"], classes)
    objects = np.bincount(
        np.concatenate([t.labels[~t.crowd] for t in annotations] or [np.zeros(0, int)]), minlength=classes
    )
    clamped = precision.clamp(min=0)
    scalars = {"mAP": result["map"], "AP50": result["map_50"], "AP75": result["map_75"], "AR100": result[f"mar_{MOST}"]}
    scalars = {name: value.clamp(min=0) for name, value in scalars.items()}
    scalars |= {f"AP_{size}": result[f"map_{size}"] for size in SIZES if result[f"map_{size}"] >= 0}
    return {
        **{name: float(value) for name, value in scalars.items()},
        "count": len(annotations),
        "per_class": {
            "ap": clamped.mean((0, 1)).tolist(),
            "ap50": clamped[0].mean(0).tolist(),
            "objects": objects.tolist(),
        },
        "curves": clamped[0].T.tolist(),
    }


def prediction_columns(rows: Any) -> dict[str, Tensor]:
    rows = torch.as_tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return {"boxes": rows[:, :4], "scores": rows[:, 4], "labels": rows[:, 5].long()}


def annotation_columns(annotation: Boxes) -> dict[str, Tensor]:
    labels = torch.as_tensor(annotation.labels, dtype=torch.int64)
    crowd = torch.as_tensor(annotation.crowd, dtype=torch.int64)
    return {
        "boxes": torch.as_tensor(annotation.boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": labels,
        "iscrowd": crowd,
    }


def to_all_classes(precision: Tensor, which: Tensor, classes: int) -> Tensor:
    """[T R k] of the classes that occur -> [T R K], -1 for the others."""
    whole = precision.new_full((*precision.shape[:2], classes), -1.0)
    whole[:, :, which.reshape(-1).long()] = precision
    return whole


def f1(predictions: np.ndarray, annotation: Boxes) -> float:
    """F1 of one image, 2 hits / (detections + objects), of detections [n 6] with a score of at least `SURE`; 1 where
    there is neither.

    By falling score, each detection is matched to the object of its class with the highest IoU of at least `SAME`;
    crowds and detections inside them do not count.
    """
    predictions = predictions[predictions[:, 4] >= SURE]
    predictions = predictions[np.argsort(-predictions[:, 4], kind="stable")]
    table = overlap(predictions[:, :4], annotation.boxes) * (predictions[:, 5:6] == annotation.labels)
    unmatched, hits, counted = ~annotation.crowd, 0, 0
    for i, row in enumerate(table):
        best = int(np.argmax(row * unmatched)) if unmatched.any() else -1
        hit = best >= 0 and bool(unmatched[best]) and row[best] >= SAME
        counted += hit or not within(
            predictions[i, :4], annotation.boxes[annotation.crowd & (annotation.labels == predictions[i, 5])]
        )
        hits += hit
        if hit:
            unmatched[best] = False
    total = counted + int((~annotation.crowd).sum())
    return 2 * hits / total if total else 1.0


def overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes [n 4] and [m 4]: [n m]."""
    intersection = intersections(a, b)
    areas = [(x[:, 2] - x[:, 0]) * (x[:, 3] - x[:, 1]) for x in (a, b)]
    return intersection / np.maximum(areas[0][:, None] + areas[1] - intersection, 1e-9)


def intersections(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersections of boxes [n 4] and [m 4]: [n m]."""
    extent = np.minimum(a[:, None, 2:], b[:, 2:]) - np.maximum(a[:, None, :2], b[:, :2])
    return extent.clip(min=0).prod(-1)


def within(box: np.ndarray, crowds: np.ndarray) -> bool:
    """Whether half of a box lies in one of the crowds [m 4]."""
    area = max(float((box[2] - box[0]) * (box[3] - box[1])), 1e-9)
    return bool((intersections(box[None], crowds) / area >= SAME).any())
