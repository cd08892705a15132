"""Images with masks or boxes: what is true and what was said side by side, the worst first; precision against recall."""

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

SIDE = 220  # pixels of the longer side of what is shown
CURVES = 5  # classes whose curve is drawn, those with the most objects
LEAST = 0.3  # score of boxes that are drawn
NUMBERS = {
    "iou": "IoU", "dice": "Dice", "precision": "Precision", "recall": "Recall", "ap": "AP", "ap50": "AP50", "ap75": "AP75",
}  # fmt: skip
AMOUNTS = {"pixels": "Pixels", "objects": "Objects"}


def per_class(known: RunData) -> Section | None:
    """The classes, the hardest first."""
    judged = known.evaluation
    if judged is None or "per_class" not in judged.metrics:
        return None
    numbers = judged.metrics["per_class"]
    shares, amounts = ([key for key in keys if key in numbers] for keys in (NUMBERS, AMOUNTS))
    first = numbers[shares[0]]
    most = max([1, *(v for key in amounts for v in numbers[key])])
    order = sorted(range(len(known.classes)), key=lambda i: (first[i], i))
    rows = [
        [
            escape_name(known.classes[i]),
            *(bar(max(0.0, numbers[key][i]), f"{numbers[key][i]:.3f}") for key in shares),
            *(bar(numbers[key][i] / most, f"{numbers[key][i]:,}", "quiet") for key in amounts),
        ]
        for i in order
    ]
    there = [i for i in order if all(numbers[key][i] > 0 for key in amounts)]
    said = []
    if len(there) > 1:
        worst, best = there[0], there[-1]
        told = [f"{escape_name(known.classes[i])} ({first[i]:.3f})" for i in (best, worst)]
        said = [f"By {NUMBERS[shares[0]]}, best is {told[0]}, hardest {told[1]}."]
    head = ["Class", *(NUMBERS[key] for key in shares), *(AMOUNTS[key] for key in amounts)]
    return Section("classes", "Class by class", said, table(head, rows, "sortable"))


def curves(known: RunData) -> Section | None:
    """Precision against recall where half an overlap is enough."""
    found = known.evaluation.metrics.get("curves") if known.evaluation else None
    if not found:
        return None
    objects = known.evaluation.metrics["per_class"]["objects"] if known.evaluation else []
    order = sorted((i for i, points in enumerate(found) if points), key=lambda i: -objects[i])[:CURVES]
    if not order:
        return None
    recall = np.linspace(0, 1, len(found[order[0]]))
    lines = [Series(known.classes[i], list(zip(recall.tolist(), found[i], strict=True))) for i in order]
    said = [
        "How many of the objects are found (recall) and how many of the found are right (precision) as the least score is lowered."
    ]
    said += [f"Drawn are the {CURVES} classes with the most objects."] if len(found) > CURVES else []
    return Section(
        "precision-recall",
        "Precision and recall",
        said,
        f'<div class="charts">{draw_curve("Precision by recall", lines)}</div>',
    )


def images(known: RunData) -> Section | None:
    """The worst first, then some of every degree, by a rule."""
    judged = known.evaluation
    if judged is None or not len(judged.scores):
        return None
    split = known.dataset.splits.get(judged.part) if known.dataset else None
    what, legend, _ = SHOWN[known.task.output]
    said = [
        f"The {WORST} worst of {format_plural(len(judged.scores), 'image')}, then {SPACED} evenly spaced by how good they are ({what})."
    ]
    said.append(legend)
    if split is None:
        return Section(
            "scenes", "Images", [*said, f"They are not shown: {escape_text(known.absent or 'the part is gone')}."], ""
        )
    where = {split.names[i]: i for i in range(len(split))}
    rows = [row for place in worst_and_spaced(judged.scores) if (row := scene(known, judged, split, where, place))]
    return Section("scenes", "Images", said, "".join(rows))


def scene(known: RunData, judged: Evaluation, split: Split, where: dict[str, int], place: int) -> str:
    """One image with its truth and its prediction; nothing where it cannot be read any more."""
    index = where.get(judged.names[place])
    if index is None or split.annotation is None:
        return ""
    try:
        pixels, annotation = split.read(index), split.annotation(index)
        shown = SHOWN[known.task.output][2](known, judged, pixels, annotation, place)
    except (BadImage, OSError, ValueError):  # gone, damaged, or of another size since
        return ""
    caption = f"{escape_name(judged.names[place])}: {format_percent(float(judged.scores[place]))}"
    return f'<figure class="scene"><div>{"".join(map(image, shown))}</div><figcaption>{caption}</figcaption></figure>'


def masks(
    known: RunData, judged: Evaluation, pixels: np.ndarray, annotation: np.ndarray, place: int
) -> list[np.ndarray]:
    kept = known.folder.evaluation / judged.part / f"{place:08d}.png"
    said = np.asarray(Image.open(kept))
    classes = len(known.classes)
    return [
        to_rgb(pixels),
        overlays.overlay_mask(pixels, annotation, classes),
        overlays.overlay_mask(pixels, np.where(annotation == IGNORE, IGNORE, said), classes),
    ]


def boxes(known: RunData, judged: Evaluation, pixels: np.ndarray, annotation: Boxes, place: int) -> list[np.ndarray]:
    said = judged.rows[place].reshape(-1, 6)
    said = said[said[:, 4] >= LEAST]
    true = [known.classes[int(i)] for i in annotation.labels]
    found = [f"{known.classes[int(label)]} {score:.2f}" for score, label in said[:, 4:6]]
    if len(true) + len(found) > 2 * SIDE // 10:  # names would cover the image
        true, found = [""] * len(true), [""] * len(found)
    return [
        overlays.draw_boxes(pixels, annotation.boxes, annotation.labels, true),
        overlays.draw_boxes(pixels, said[:, :4], said[:, 5], found),
    ]


SHOWN: dict[
    str, tuple[str, str, Callable[..., list[np.ndarray]]]
] = {  # by output: the score of an image, the legend, how it is drawn
    "masks": ("IoU of the image's classes", "Left: the image. Middle: what is true. Right: what was said.", masks),
    "boxes": ("F1 of its boxes", "Left: what is true. Right: what was said.", boxes),
}


def image(pixels: np.ndarray) -> str:
    """An <img> of at most `SIDE` pixels, as a JPEG: overlays have too many colours for a small PNG."""
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(overlays.encode_jpeg(pixels, SIDE)).decode()}">'


def summary(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    """What stands beside the score."""
    spoken = {"dice": "Dice", "pixel_accuracy": "Right pixels", "AP50": "AP50", "AP75": "AP75"}
    return [(said, format_percent(metrics[key])) for key, said in spoken.items() if isinstance(metrics.get(key), float)]
