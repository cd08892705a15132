"""The 95 % interval of the metric that ranks models, for an evaluation that is kept or printed."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vitrail.contracts import Predictions, Task
from vitrail.metrics.detection import average_precision
from vitrail.metrics.intervals import bootstrap_interval, jackknife_interval, wilson_interval
from vitrail.metrics.segmentation import segmentation_metrics
from vitrail.tasks.detection import boxes_of_row

Bounds = tuple[float, float]


def measure_interval(task: Task, metrics: Mapping[str, Any], predictions: Predictions) -> dict[str, Any]:
    """ "metric", "low", "high" and "method"; empty where the metric of a task has none, or of a single image."""
    name, count = task.metric.name, int(metrics["count"])
    method, measure = METHODS.get((task.output, name), ("", None))
    if measure is None or count < 2:
        return {}
    low, high = measure(predictions, metrics[name], count, len(metrics["per_class"].get("objects", ())))
    return {"metric": name, "low": min(low, metrics[name]), "high": max(high, metrics[name]), "method": method}


def of_top1(predictions: Predictions, value: float, count: int, classes: int) -> Bounds:
    return wilson_interval(value, count)


def of_labels(predictions: Predictions, value: float, count: int, classes: int) -> Bounds:
    """Of the mean average precision of several labels an image."""
    probabilities, targets = predictions.rows.numpy(), predictions.targets.numpy() > 0
    order = np.argsort(-probabilities, axis=0, kind="stable")  # [N K]

    def statistic(indices: np.ndarray) -> float:
        times = np.bincount(indices, minlength=count)
        weight = times[order]
        hit = weight * np.take_along_axis(targets, order, 0)
        precision = hit.cumsum(0) / weight.cumsum(0).clip(1)
        present = hit.sum(0) > 0
        return float(((hit * precision).sum(0)[present] / hit.sum(0)[present]).mean()) if present.any() else 0.0

    return bootstrap_interval(statistic, count, 8 * targets.shape[1])


def of_masks(predictions: Predictions, value: float, count: int, classes: int) -> Bounds:
    rows = predictions.rows
    return bootstrap_interval(lambda indices: segmentation_metrics(rows[indices])["miou"], count, rows.shape[1])


def of_boxes(predictions: Predictions, value: float, count: int, classes: int) -> Bounds:
    boxes, annotations = [boxes_of_row(row) for row in predictions.rows], predictions.annotations

    def statistic(indices: np.ndarray) -> float:
        chosen = [boxes[i] for i in indices], [annotations[i] for i in indices]
        return float(average_precision(*chosen, classes)["mAP"])

    return jackknife_interval(statistic, count, value)


def of_losses(predictions: Predictions, value: float, count: int, classes: int) -> Bounds:
    losses = predictions.rows[:, 0].double().numpy()
    return bootstrap_interval(lambda indices: float(losses[indices].mean()), count)


Measure = Callable[[Predictions, float, int, int], Bounds]
METHODS: dict[tuple[str, str], tuple[str, Measure]] = {  # by the output of a task and its metric
    ("classes", "top1"): ("Wilson", of_top1),
    ("classes", "mAP"): ("bootstrap over images", of_labels),
    ("masks", "miou"): ("bootstrap over images", of_masks),
    ("boxes", "mAP"): ("jackknife over images", of_boxes),
    ("images", "held_out_loss"): ("bootstrap over images", of_losses),
}
