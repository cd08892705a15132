"""Predictions as records: JSON, lines of text, COCO's results."""

from collections import Counter
from pathlib import Path
from typing import Any

from vitrail.errors import BadImage

LEAST = 0.05  # score of boxes that are written to the COCO file


def as_json(path: Path, row: Any, predictor: Any) -> dict[str, Any]:
    if isinstance(row, BadImage):
        return {"path": str(path), "error": row.what}
    probabilities = {name: round(float(p), 6) for name, p in zip(predictor.classes, row, strict=True)}
    return {"path": str(path), "label": predictor.label(row), "probabilities": probabilities}


def as_line(path: Path, row: Any, predictor: Any, top: int) -> str:
    if isinstance(row, BadImage):
        return row.what
    best = row.topk(min(top, len(predictor.classes)))
    told = ", ".join(
        f"{predictor.classes[i]} {p:.1%}" for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    )
    return f"{path}: {told}"


def line(prediction: dict[str, Any], least: float) -> str:
    """The gist of an image: the classes by area, or how many objects of which class."""
    if "shares" in prediction:
        largest = sorted(prediction["shares"].items(), key=lambda item: -item[1])
        return ", ".join(f"{name} {share:.1%}" for name, share in largest[:5] if share > 0)
    found = Counter(one["label"] for one in prediction["objects"] if one["score"] >= least)
    return ", ".join(f"{count} {name}" for name, count in found.most_common()) or "nothing found"


def coco_file(files: list[Path], classes: tuple[str, ...], found: list[dict[str, Any]]) -> dict[str, Any]:
    """Images, categories and found boxes (left, top, width, height) as COCO's JSON has them."""
    kept = [
        {"id": number, **{k: v for k, v in one.items() if k not in ("label", "file_name")}}
        for number, one in enumerate(found, 1)
    ]
    return {
        "images": [{"id": number, "file_name": str(path)} for number, path in enumerate(files)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(classes, 1)],
        "annotations": kept,
    }
