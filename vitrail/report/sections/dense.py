"""Masks and boxes: metrics per class, precision-recall curves, annotations beside predictions."""

import base64
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from vitrail.data.dataset import IGNORE, Boxes, Split
from vitrail.data.encode import to_rgb
from vitrail.data.subset import SPACED, WORST, worst_and_spaced
from vitrail.errors import BadImage
from vitrail.report.page import overlays
from vitrail.report.page.charts import Series, draw_curve
from vitrail.report.page.markup import Section, bar, escape_name, escape_text, table
from vitrail.report.page.words import format_percent, format_plural
from vitrail.report.run_data import Evaluation, RunData

SIDE = 220  # pixels of the longer side of an image
CURVES = 5  # classes with a precision-recall curve: those with the most objects
LEAST = 0.3  # minimum score of the boxes shown
NUMBERS = {
    "iou": "IoU", "dice": "Dice", "precision": "Precision", "recall": "Recall", "ap": "AP", "ap50": "AP50",
    "ap75": "AP75",
}  # fmt: skip
AMOUNTS = {"pixels": "Pixels", "objects": "Objects"}


def per_class(run: RunData) -> Section | None:
    """Metrics per class, the lowest first."""
    evaluation = run.evaluation
    if evaluation is None or "per_class" not in evaluation.metrics:
        return None
    numbers = evaluation.metrics["per_class"]
    shares, amounts = ([key for key in keys if key in numbers] for keys in (NUMBERS, AMOUNTS))
    first = numbers[shares[0]]
    most = max([1, *(v for key in amounts for v in numbers[key])])
    order = sorted(range(len(run.classes)), key=lambda i: (first[i], i))
    rows = [
        [
            escape_name(run.classes[i]),
            *(bar(max(0.0, numbers[key][i]), f"{numbers[key][i]:.3f}") for key in shares),
            *(bar(numbers[key][i] / most, f"{numbers[key][i]:,}", "quiet") for key in amounts),
        ]
        for i in order
    ]
    present = [i for i in order if all(numbers[key][i] > 0 for key in amounts)]
    sentences = []
    if len(present) > 1:
        worst, best = present[0], present[-1]
        extremes = [f"{escape_name(run.classes[i])} ({first[i]:.3f})" for i in (best, worst)]
        sentences = [f"By {NUMBERS[shares[0]]}, best is {extremes[0]}, hardest {extremes[1]}."]
    head = ["Class", *(NUMBERS[key] for key in shares), *(AMOUNTS[key] for key in amounts)]
    return Section("classes", "Metrics per class", sentences, table(head, rows, "sortable"))


def curves(run: RunData) -> Section | None:
    """Precision-recall curves at an IoU threshold of 0.5."""
    points_by_class = run.evaluation.metrics.get("curves") if run.evaluation else None
    if not points_by_class:
        return None
    objects = run.evaluation.metrics["per_class"]["objects"] if run.evaluation else []
    order = sorted((i for i, points in enumerate(points_by_class) if points), key=lambda i: -objects[i])[:CURVES]
    if not order:
        return None
    recall = np.linspace(0, 1, len(points_by_class[order[0]]))
    lines = [Series(run.classes[i], list(zip(recall.tolist(), points_by_class[i], strict=True))) for i in order]
    sentences = [
        "Recall (detected fraction of the objects) and precision (correct fraction of the detections) as the score "
        "threshold is lowered."
    ]
    sentences += [f"Shown are the {CURVES} classes with the most objects."] if len(points_by_class) > CURVES else []
    return Section(
        "precision-recall",
        "Precision-recall curves",
        sentences,
        f'<div class="charts">{draw_curve("Precision by recall", lines)}</div>',
    )


def images(run: RunData) -> Section | None:
    """The images with the lowest scores, then some evenly spaced by score."""
    evaluation = run.evaluation
    if evaluation is None or not len(evaluation.scores):
        return None
    split = run.dataset.splits.get(evaluation.part) if run.dataset else None
    what, legend, _ = RENDERERS[run.task.output]
    sentences = [
        f"The {WORST} worst of {format_plural(len(evaluation.scores), 'image')}, then {SPACED} evenly spaced by score "
        f"({what})."
    ]
    sentences.append(legend)
    if split is None:
        return Section(
            "scenes",
            "Images",
            [*sentences, f"They are not shown: {escape_text(run.absent or 'the part no longer exists')}."],
            "",
        )
    where = {split.names[i]: i for i in range(len(split))}
    rows = [
        row
        for position in worst_and_spaced(evaluation.scores)
        if (row := scene(run, evaluation, split, where, position))
    ]
    return Section("scenes", "Images", sentences, "".join(rows))


def scene(run: RunData, evaluation: Evaluation, split: Split, where: dict[str, int], position: int) -> str:
    """One image with its annotation and its prediction; "" where it cannot be read any more."""
    index = where.get(evaluation.names[position])
    if index is None or split.annotation is None:
        return ""
    try:
        pixels, annotation = split.read(index), split.annotation(index)
        panels = RENDERERS[run.task.output][2](run, evaluation, pixels, annotation, position)
    except (BadImage, OSError, ValueError):  # removed, damaged, or resized since
        return ""
    caption = f"{escape_name(evaluation.names[position])}: {format_percent(float(evaluation.scores[position]))}"
    return f'<figure class="scene"><div>{"".join(map(image, panels))}</div><figcaption>{caption}</figcaption></figure>'


def masks(
    run: RunData, evaluation: Evaluation, pixels: np.ndarray, annotation: np.ndarray, position: int
) -> list[np.ndarray]:
    file = run.folder.evaluation / evaluation.part / f"{position:08d}.png"
    prediction = np.asarray(Image.open(file))
    classes = len(run.classes)
    return [
        to_rgb(pixels),
        overlays.overlay_mask(pixels, annotation, classes),
        overlays.overlay_mask(pixels, np.where(annotation == IGNORE, IGNORE, prediction), classes),
    ]


def boxes(
    run: RunData, evaluation: Evaluation, pixels: np.ndarray, annotation: Boxes, position: int
) -> list[np.ndarray]:
    prediction = evaluation.rows[position].reshape(-1, 6)
    prediction = prediction[prediction[:, 4] >= LEAST]
    annotation_names = [run.classes[int(i)] for i in annotation.labels]
    prediction_names = [f"{run.classes[int(label)]} {score:.2f}" for score, label in prediction[:, 4:6]]
    if len(annotation_names) + len(prediction_names) > 2 * SIDE // 10:  # names would cover the image
        annotation_names, prediction_names = [""] * len(annotation_names), [""] * len(prediction_names)
    return [
        overlays.draw_boxes(pixels, annotation.boxes, annotation.labels, annotation_names),
        overlays.draw_boxes(pixels, prediction[:, :4], prediction[:, 5], prediction_names),
    ]


# by output: the score of an image, the legend, the function that renders it
RENDERERS: dict[str, tuple[str, str, Callable[..., list[np.ndarray]]]] = {
    "masks": ("IoU of the image's classes", "Left: image. Middle: annotation. Right: prediction.", masks),
    "boxes": ("F1 of its boxes", "Left: annotation. Right: prediction.", boxes),
}


def image(pixels: np.ndarray) -> str:
    """An <img> of at most `SIDE` pixels, as a JPEG: overlays have too many colours for a small PNG."""
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(overlays.encode_jpeg(pixels, SIDE)).decode()}">'


def summary(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    """The metrics beside the score in the headline."""
    headings = {"dice": "Dice", "pixel_accuracy": "Pixel accuracy", "AP50": "AP50", "AP75": "AP75"}
    return [
        (heading, format_percent(metrics[key]))
        for key, heading in headings.items()
        if isinstance(metrics.get(key), float)
    ]
