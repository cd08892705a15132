"""Predictions as the JSON that a client gets."""

import base64
import io
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from vitrail.inference.image_predictor import ImagePredictor

Content = dict[str, Any]


class Options(NamedTuple):
    """What a client may choose. top: how many classes; score: the lowest of objects."""

    top: int = 5
    score: float = 0.05


def class_answer(row: Any, predictor: ImagePredictor, options: Options) -> Content:
    order = sorted(range(len(row)), key=lambda i: (-float(row[i]), i))[: options.top]
    return {
        "label": predictor.label(row),
        "probabilities": [{"label": predictor.classes[i], "index": i, "probability": float(row[i])} for i in order],
    }


def mask_answer(label_map: np.ndarray, predictor: ImagePredictor, options: Options) -> Content:
    """The share of each class that is there, and the label map as a PNG of class numbers."""
    counts = np.bincount(label_map.ravel(), minlength=len(predictor.classes))
    shares = [
        {"label": predictor.classes[i], "index": i, "share": int(counts[i]) / label_map.size}
        for i in np.argsort(-counts, kind="stable").tolist() if counts[i]
    ]  # fmt: skip
    return {"classes": shares, "mask": base64.b64encode(to_png(label_map)).decode()}


def box_answer(boxes: np.ndarray, predictor: ImagePredictor, options: Options) -> Content:
    """The objects, the best first; a box is left, top, right, bottom in pixels of the image."""
    return {
        "objects": [
            {"label": predictor.classes[int(row[5])], "index": int(row[5]), "score": float(row[4]),
             "box": [round(float(v), 2) for v in row[:4]]}
            for row in boxes if row[4] >= options.score
        ]
    }  # fmt: skip


def feature_answer(row: Any, predictor: ImagePredictor, options: Options) -> Content:
    """The numbers of a vector."""
    return {"features": [float(value) for value in row]}


# by `Task.output`
ANSWERS: dict[str, Callable[[Any, ImagePredictor, Options], Content]] = {
    "classes": class_answer, "masks": mask_answer, "boxes": box_answer, "features": feature_answer,
}  # fmt: skip


def to_png(label_map: np.ndarray) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(label_map).save(file, "PNG")
    return file.getvalue()
