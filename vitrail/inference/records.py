"""Predictions as records: JSON, lines of text, COCO's results."""

from collections import Counter
from pathlib import Path
from typing import Any

from vitrail.errors import BadImage

LEAST = 0.05  # score of boxes in the COCO file


def as_json(path: Path, row: Any, predictor: Any) -> dict[str, Any]:
    if isinstance(row, BadImage):
        return {"path": str(path), "error": row.what}
    probabilities = {name: round(float(p), 6) for name, p in zip(predictor.classes, row, strict=True)}
    return {"path": str(path), "label": predictor.label(row), "probabilities": probabilities}


def as_line(path: Path, row: Any, predictor: Any, top: int) -> str:
    if isinstance(row, BadImage):
        return row.what
    best = row.topk(min(top, len(predictor.classes)))
    classes = ", ".join(
        f"{predictor.classes[i]} {p:.1%}" for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    )
    return f"{path}: {classes}"


def line(prediction: dict[str, Any], least: float) -> str:
    """A summary of an image: the classes by area, or the number of objects of each class."""
    if "shares" in prediction:
        largest = sorted(prediction["shares"].items(), key=lambda item: -item[1])
        return ", ".join(f"{name} {share:.1%}" for name, share in largest[:5] if share > 0)
    counts = Counter(one["label"] for one in prediction["objects"] if one["score"] >= least)
    return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "nothing found"


def coco_file(files: list[Path], classes: tuple[str, ...], boxes: list[dict[str, Any]]) -> dict[str, Any]:
    """Images, categories and predicted boxes (left, top, width, height) as COCO's JSON has them."""
    annotations = [
        {"id": number, **{k: v for k, v in one.items() if k not in ("label", "file_name")}}
        for number, one in enumerate(boxes, 1)
    ]
    return {
        "images": [{"id": number, "file_name": str(path)} for number, path in enumerate(files)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(classes, 1)],
        "annotations": annotations,
    }
