"""`vitrail predict` of models for masks and boxes: label maps, overlays and areas; drawn boxes and a COCO file."""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from vitrail.errors import BadImage, UsageError
from vitrail.inference.records import LEAST, coco_file, line
from vitrail.storage.json_text import to_json
from vitrail.validation import as_path


def predict(predictor: Any, files: list[Path], out: str, min_score: float, as_json: bool) -> int:
    """Writes the predictions of all files into a new folder and prints a line each. Returns the exit code."""
    from vitrail.data.decode import decode

    folder = fresh(out)
    folder.mkdir(parents=True)
    pre, names, coco, failed = predictor.preprocess, stems(files), [], 0
    write = WRITERS[predictor.task.output]
    for number, path in enumerate(files):
        try:
            pixels = decode(path, pre.channels if pre.channels in (1, 3, 4) else 3, background=pre.background)
        except BadImage as error:
            failed += 1
            print(to_json({"path": str(path), "error": error.what}) if as_json else error.what)
            continue
        prediction = predictor.predict_scenes([pixels])[0]
        record = write(folder, names[number], pixels, prediction, predictor.classes, min_score)
        coco += [{"image_id": number, "file_name": str(path), **one} for one in record.get("objects", [])]
        print(to_json({"path": str(path), **record}) if as_json else f"{path}: {line(record, min_score)}")
    if write is write_boxes:
        (folder / "predictions.json").write_text(to_json(coco_file(files, predictor.classes, coco)), encoding="utf-8")
    if not as_json:
        print(f"written to {folder}")
    if failed:
        sys.stderr.write(f"vitrail: {failed} of {len(files)} images could not be read\n")
    return BadImage.code if failed else 0


def fresh(out: str, default: str = "predictions") -> Path:
    """A folder that does not exist yet, by default called `default`. Errors: `UsageError` where `out` exists."""
    if out:
        path = as_path(out)
        if path.exists():
            raise UsageError(f"{path} is there already and is never overwritten", "choose another --out")
        return path
    number = 1
    while (path := Path(default if number == 1 else f"{default}-{number}")).exists():
        number += 1
    return path


def stems(files: list[Path]) -> list[str]:
    """A name for each file, so that no two written files have the same name, even where case is ignored."""
    file_names = [f"{path.stem}{end}".lower() for path in files for end in ("", "-overlay", "-boxes")]
    if len(set(file_names)) == len(file_names):
        return [path.stem for path in files]
    return [f"{number:05d}-{path.stem}" for number, path in enumerate(files)]


def write_masks(
    folder: Path, name: str, pixels: np.ndarray, prediction: np.ndarray, classes: tuple[str, ...], _: float
) -> dict[str, Any]:
    """NAME.png, the label map; NAME-overlay.png; the fraction of the image that each class covers."""
    from vitrail.data.encode import encode_png
    from vitrail.report.page import overlays

    (folder / f"{name}.png").write_bytes(overlays.encode_label_map(prediction, len(classes)))
    (folder / f"{name}-overlay.png").write_bytes(encode_png(overlays.overlay_mask(pixels, prediction, len(classes))))
    counts = np.bincount(prediction.ravel(), minlength=len(classes))
    pixels_of = {c: int(n) for c, n in zip(classes, counts, strict=True)}
    areas = {"pixels": pixels_of, "shares": {c: round(n / prediction.size, 6) for c, n in pixels_of.items()}}
    (folder / f"{name}.json").write_text(to_json(areas, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return {"label_map": str(folder / f"{name}.png"), **areas}


def write_boxes(
    folder: Path, name: str, pixels: np.ndarray, prediction: np.ndarray, classes: tuple[str, ...], min_score: float
) -> dict[str, Any]:
    """NAME-boxes.png with the objects of at least `min_score`; the record has all of at least `LEAST`."""
    from vitrail.data.encode import encode_png
    from vitrail.report.page import overlays

    confident = prediction[prediction[:, 4] >= min_score]
    words = [f"{classes[int(label)]} {score:.2f}" for score, label in confident[:, 4:6]]
    (folder / f"{name}-boxes.png").write_bytes(
        encode_png(overlays.draw_boxes(pixels, confident[:, :4], confident[:, 5], words))
    )
    objects = [
        {
            "label": classes[int(label)],
            "category_id": int(label) + 1,
            "bbox": [round(float(v), 2) for v in (left, top, right - left, bottom - top)],
            "score": round(float(score), 5),
        }
        for left, top, right, bottom, score, label in prediction
        if score >= LEAST
    ]
    return {"image": str(folder / f"{name}-boxes.png"), "objects": objects}


WRITERS = {"masks": write_masks, "boxes": write_boxes}  # by `Task.output`
