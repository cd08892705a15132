"""Predictions as records: JSON, lines of text, rows of a table, COCO's results."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from vitrail.inference.describe import shorten
from vitrail.inference.image_predictor import ImagePredictor
from vitrail.inference.stream import ImagePrediction

LEAST = 0.05  # score of boxes in JSON and in the COCO file
LONGEST = 4096  # characters of a path in a line


def to_record(one: ImagePrediction, predictor: ImagePredictor) -> dict[str, Any]:
    """The prediction of one image as JSON can hold it. Keys: "path", of a video also "frame" and "seconds"; "error", or
    "label" and "probabilities", "pixels" and "shares" of each class, "objects", "features"."""
    frame = {} if one.image.frame is None else {"frame": one.image.frame, "seconds": round(one.image.seconds or 0, 3)}
    return {"path": one.path, **frame, **content(one, predictor)}


def content(one: ImagePrediction, predictor: ImagePredictor) -> dict[str, Any]:
    if one.error:
        return {"error": one.error.what}
    return CONTENT[predictor.task.output](one.value, predictor)


def class_content(row: Any, predictor: ImagePredictor) -> dict[str, Any]:
    probabilities = {name: round(float(p), 6) for name, p in zip(predictor.classes, row, strict=True)}
    return {"label": predictor.label(row), "probabilities": probabilities}


def mask_content(label_map: np.ndarray, predictor: ImagePredictor) -> dict[str, Any]:
    """The pixels of each class, and the fraction of the image that it covers."""
    counts = np.bincount(label_map.ravel(), minlength=len(predictor.classes))
    pixels = {name: int(n) for name, n in zip(predictor.classes, counts, strict=True)}
    return {"pixels": pixels, "shares": {name: round(n / label_map.size, 6) for name, n in pixels.items()}}


def box_content(boxes: np.ndarray, predictor: ImagePredictor) -> dict[str, Any]:
    """The objects with a score of at least `LEAST`, the best first."""
    objects = [
        {
            "label": predictor.classes[int(label)],
            "category_id": int(label) + 1,
            "bbox": [round(float(v), 2) for v in (left, top, right - left, bottom - top)],
            "score": round(float(score), 5),
        }
        for left, top, right, bottom, score, label in boxes
        if score >= LEAST
    ]
    return {"objects": objects}


def feature_content(row: Any, predictor: ImagePredictor) -> dict[str, Any]:
    return {"features": [round(float(value), 6) for value in row]}


# by `Task.output`
CONTENT = {"classes": class_content, "masks": mask_content, "boxes": box_content, "features": feature_content}


def as_line(record: dict[str, Any], top: int, least: float) -> str:
    """A record in words: the most likely classes, the classes by area, or the number of objects of each class."""
    name = record["path"] + (f"#{record['frame']}" if "frame" in record else "")
    return shorten(record["error"] if "error" in record else f"{name}: {summary(record, top, least)}", LONGEST)


def summary(record: dict[str, Any], top: int, least: float) -> str:
    if "probabilities" in record:
        best = sorted(record["probabilities"].items(), key=lambda item: -item[1])[:top]
        return ", ".join(f"{name} {p:.1%}" for name, p in best)
    if "shares" in record:
        largest = sorted(record["shares"].items(), key=lambda item: -item[1])
        return ", ".join(f"{name} {share:.1%}" for name, share in largest[:5] if share > 0)
    if "features" in record:
        return f"{len(record['features'])} features; --json or --csv has them"
    counts = Counter(one["label"] for one in record["objects"] if one["score"] >= least)
    return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "nothing found"


def table_head(predictor: ImagePredictor, has_frames: bool) -> list[str]:
    """The names of the columns of a table of records."""
    own = {
        "classes": ["label", "probability", *(f"p_{name}" for name in predictor.classes)],
        "masks": [f"share_{name}" for name in predictor.classes],
        "boxes": ["label", "score", "left", "top", "right", "bottom"],
        "features": ["features"],
    }
    return ["path", *(["frame", "seconds"] if has_frames else []), *own[predictor.task.output], "error"]


def table_rows(record: dict[str, Any], predictor: ImagePredictor, has_frames: bool, least: float) -> list[list[Any]]:
    """The rows of one image: one, or of boxes one an object, or one without an object."""
    head = [record["path"], *([record.get("frame", ""), record.get("seconds", "")] if has_frames else [])]
    empty = [""] * (len(table_head(predictor, has_frames)) - len(head) - 1)
    if "error" in record:
        return [[*head, *empty, record["error"]]]
    if "probabilities" in record:
        values = list(record["probabilities"].values())
        return [[*head, record["label"], max(values), *values, ""]]
    if "shares" in record:
        return [[*head, *record["shares"].values(), ""]]
    if "features" in record:
        return [[*head, " ".join(map(str, record["features"])), ""]]
    found = [one for one in record["objects"] if one["score"] >= least]
    rows = [[*head, one["label"], one["score"], *corners(one["bbox"]), ""] for one in found]
    return rows or [[*head, *empty, ""]]


def corners(bbox: Sequence[float]) -> list[float]:
    left, top, width, height = bbox
    return [left, top, round(left + width, 2), round(top + height, 2)]


def coco_file(records: Sequence[dict[str, Any]], classes: tuple[str, ...]) -> dict[str, Any]:
    """Images, categories and predicted boxes (left, top, width, height) as COCO's JSON has them."""
    names = [one["path"] + (f"#{one['frame']}" if "frame" in one else "") for one in records]
    boxes = [
        {"image_id": number, **{k: v for k, v in box.items() if k != "label"}}
        for number, one in enumerate(records)
        for box in one.get("objects", ())
    ]
    return {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(names)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(classes, 1)],
        "annotations": [{"id": number, **box} for number, box in enumerate(boxes, 1)],
    }
