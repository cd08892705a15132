"""What `vitrail predict` writes: a table, and a folder with label maps, overlays, drawn boxes and a COCO file.

Nothing is created before the first prediction, and no file of the user is overwritten.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import numpy as np

from vitrail.cli.output.new_paths import stems
from vitrail.errors import UsageError
from vitrail.inference.image_predictor import ImagePredictor
from vitrail.inference.records import coco_file, table_head, table_rows
from vitrail.inference.sources import Source
from vitrail.inference.stream import ImagePrediction
from vitrail.storage.json_text import to_json

DEFAULT_FOLDER = {"masks": "predictions", "boxes": "predictions"}  # by `Task.output`: an image needs a file


class PredictionFiles:
    """The files of one call. folder and table are None where they are not asked for."""

    def __init__(self, folder: Path | None, table: Path | None, predictor: ImagePredictor, sources: Sequence[Source],
                 least: float):  # fmt: skip
        self.folder, self.predictor, self.least = folder, predictor, least
        self.has_frames = any(source.is_video for source in sources)
        self.names = stems([source.name for source in sources])
        self.tables = [path for path in (table, folder and folder / "predictions.csv") if path]
        self.open: list[TextIO] = []
        self.records: list[dict[str, Any]] = []  # of a COCO file

    def __enter__(self) -> "PredictionFiles":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for file in self.open:
            file.close()

    def write(self, one: ImagePrediction, record: dict[str, Any]) -> None:
        """Errors: `UsageError` where a file has come into being meanwhile, or the place cannot be written."""
        output = self.predictor.task.output
        try:
            if not self.open and self.folder:
                self.folder.mkdir(parents=True)
            if not self.open and self.tables:
                for path in self.tables:
                    path.parent.mkdir(parents=True, exist_ok=True)
                self.open = [path.open("x", encoding="utf-8", errors="surrogateescape", newline="")
                             for path in self.tables]  # fmt: skip
                for file in self.open:
                    csv.writer(file, lineterminator="\n").writerow(table_head(self.predictor, self.has_frames))
            for file in self.open:
                csv.writer(file, lineterminator="\n").writerows(
                    table_rows(record, self.predictor, self.has_frames, self.least)
                )
            if self.folder and output in WRITERS:
                self.records.append(record)
                if one.error is None:
                    WRITERS[output](self.folder, self.name_of(one), one, record, self)
        except OSError as error:
            what = f"{error.filename or self.folder or self.tables[0]} cannot be written: {error.strerror or error}"
            raise UsageError(what, "choose another --out or --csv, or free the space it needs") from None

    def finish(self) -> list[str]:
        """Writes what needs all predictions. Returns the places that were written, for the last line."""
        if self.folder and self.folder.exists() and self.predictor.task.output in COCO:
            text = to_json(coco_file(self.records, self.predictor.classes))
            (self.folder / "predictions.json").write_text(text, encoding="utf-8")
        tables = self.tables if not self.folder else self.tables[:-1]
        return [str(path) for path in (self.folder, *tables) if path and path.exists()]

    def name_of(self, one: ImagePrediction) -> str:
        frame = "" if one.image.frame is None else f"-{one.image.frame:06d}"
        return self.names[one.image.number] + frame


def write_masks(folder: Path, name: str, one: ImagePrediction, record: dict[str, Any], files: PredictionFiles) -> None:
    """NAME.png, the label map; NAME-overlay.png; NAME.json, the fraction of the image that each class covers."""
    from vitrail.data.encode import encode_png
    from vitrail.report.page import overlays

    count, pixels = len(files.predictor.classes), one.image.pixels
    assert pixels is not None
    (folder / f"{name}.png").write_bytes(overlays.encode_label_map(one.value, count))
    (folder / f"{name}-overlay.png").write_bytes(encode_png(overlays.overlay_mask(pixels, one.value, count), fast=True))
    areas = {key: record[key] for key in ("pixels", "shares")}
    (folder / f"{name}.json").write_text(to_json(areas, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    record["label_map"] = str(folder / f"{name}.png")


def write_boxes(folder: Path, name: str, one: ImagePrediction, record: dict[str, Any], files: PredictionFiles) -> None:
    """NAME-boxes.png with the objects of at least the lowest score."""
    from vitrail.data.encode import encode_png
    from vitrail.report.page import overlays

    assert one.image.pixels is not None
    confident: np.ndarray = one.value[one.value[:, 4] >= files.least]
    words = [f"{files.predictor.classes[int(label)]} {score:.2f}" for score, label in confident[:, 4:6]]
    drawn = overlays.draw_boxes(one.image.pixels, confident[:, :4], confident[:, 5], words)
    (folder / f"{name}-boxes.png").write_bytes(encode_png(drawn, fast=True))
    record["image"] = str(folder / f"{name}-boxes.png")


WRITERS = {"masks": write_masks, "boxes": write_boxes}  # by `Task.output`
COCO = ("boxes",)  # whose predictions are also written as COCO has them
