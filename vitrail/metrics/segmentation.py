"""Metrics of segmentation, from three counts per class and image: pixels of intersection, prediction and annotation."""

from typing import Any

import torch
from torch import Tensor

from vitrail.data.dataset import IGNORE


def count_pixels(prediction: Tensor, annotation: Tensor, classes: int) -> Tensor:
    """Label maps uint8 [H W] of one image, predicted and annotated -> int64 [3 K]: intersection, predicted and
    annotated pixels of each class. Pixels annotated as `IGNORE` are excluded."""
    valid = annotation != IGNORE
    prediction, annotation = prediction[valid].long(), annotation[valid].long()
    return torch.cat(
        [part.bincount(minlength=classes) for part in (annotation[prediction == annotation], prediction, annotation)]
    )


def segmentation_metrics(rows: Tensor) -> dict[str, Any]:
    """Rows of `count_pixels` [N 3K] -> scalars by name, and "per_class" lists.

    "miou"            the mean over classes of intersection over union; each over all pixels together
    "pixel_accuracy"  share of correct pixels
    "mean_accuracy"   the mean over classes of their recall
    "dice"            the mean over classes of 2 x intersection / (predicted + annotated), over all pixels together
    "image_dice"      the same of single images: the mean over the classes in an image except the first, the
                      background, then the mean over the images that have such classes

    Means over classes exclude those that are neither predicted nor annotated ("mean_accuracy": not annotated) anywhere,
    or in the image. A mean of nothing is 0.
    """
    each = rows.double().unflatten(1, (3, -1))  # [N 3 K]
    both, predicted, annotated = each.sum(0)
    occurs = predicted + annotated > 0
    iou, dice = both / (predicted + annotated - both).clamp_min(1), overlap(both, predicted, annotated)
    precision, recall = both / predicted.clamp_min(1), both / annotated.clamp_min(1)
    columns = {"iou": iou, "dice": dice, "precision": precision, "recall": recall, "pixels": annotated.long()}
    return {
        "miou": mean(iou, occurs),
        "pixel_accuracy": float(both.sum() / annotated.sum().clamp_min(1)),
        "mean_accuracy": mean(recall, annotated > 0),
        "dice": mean(dice, occurs),
        "image_dice": image_dice(each[:, :, 1:]),
        "count": len(rows),
        "per_class": {name: column.tolist() for name, column in columns.items()},
    }


def image_dice(foreground: Tensor) -> float:
    """Counts [N 3 K] -> the mean over images of the mean over the classes in them."""
    both, predicted, annotated = foreground.unbind(1)  # [N K] each
    occurs = predicted + annotated > 0
    dice = (overlap(both, predicted, annotated) * occurs).sum(1) / occurs.sum(1).clamp_min(1)
    return mean(dice, occurs.any(1))


def overlap(both: Tensor, predicted: Tensor, annotated: Tensor) -> Tensor:
    return 2 * both / (predicted + annotated).clamp_min(1)


def mean(values: Tensor, which: Tensor) -> float:
    return float(values[which].mean()) if bool(which.any()) else 0.0
