"""One model in a worker: opened, warmed up, and asked for predictions and attention."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vitrail.analysis.overlay import find_visible_area
from vitrail.data.decode import decode
from vitrail.errors import BadImage, CheckpointError, UsageError
from vitrail.evaluation.look import whole_image
from vitrail.inference.exported import INFO, ExportedPredictor
from vitrail.inference.image_predictor import ImagePredictor
from vitrail.inference.load_any import load_any
from vitrail.inference.open_engine import TORCH
from vitrail.inference.predictor import Predictor
from vitrail.serve.answers import ANSWERS, Content, Options, to_png
from vitrail.serve.maps import HINT, find_maps
from vitrail.serve.refusal import Refused
from vitrail.serve.uploads import SCANS, has_many_scans
from vitrail.version import __version__

WEIGHTS = (".safetensors", ".onnx", ".pt2", ".pte", ".xml", ".bin", ".data")


class ServedModel:
    """A predictor with its name. `describe()` is what `/models` says of it."""

    def __init__(self, name: str, predictor: ImagePredictor, batch: int):
        self.name, self.predictor, self.batch = name, predictor, batch
        self.maps = find_maps(predictor)

    @property
    def channels(self) -> int:
        return self.predictor.preprocess.channels

    def warm_up(self) -> None:
        """The first answer is as fast as the others. Errors: `CheckpointError` for answers that are not finite."""
        image, _ = self.read(to_png(np.zeros((48, 64, 3), np.uint8)), 2**20)
        for count in sorted({1, self.batch}):
            for value in self.predictor.predict_pixels([image] * count):
                if not np.isfinite(np.asarray(value)).all():
                    raise CheckpointError(f"{self.name} answers with numbers that are not finite",
                                          "its weights are damaged: take another copy, or train again")  # fmt: skip

    def read(self, content: bytes, limit: int) -> tuple[np.ndarray, tuple[int, int]]:
        """An image file -> uint8 [H W C] as it is predicted, and its height and width. Classifiers get it resized, so
        that nothing large waits. Errors: `BadImage`."""
        pre = self.predictor.preprocess
        if has_many_scans(content):
            raise BadImage(f"the image is a JPEG of more than {SCANS} scans", "save it again")
        pixels = decode(content, pre.channels if pre.channels in (1, 3, 4) else 3, limit, pre.background)
        size = pixels.shape[0], pixels.shape[1]
        if resized_area(pre, *size) > limit:
            raise BadImage(f"the image is too long or too narrow: {size[1]} x {size[0]}", "crop it")
        if self.predictor.task.is_classifier:
            pixels = np.ascontiguousarray(pre.image(pixels).numpy().transpose(1, 2, 0))
        return pixels, size

    def predict(self, images: Sequence[np.ndarray]) -> Sequence[Any]:
        return self.predictor.predict_pixels(images)

    def answer(self, value: Any, size: tuple[int, int], options: Options) -> Content:
        if (array := np.asarray(value)).dtype.kind == "f" and not np.isfinite(array).all():
            raise ArithmeticError("the answer is not finite")
        content = ANSWERS[self.predictor.task.output](value, self.predictor, options)
        return {"model": self.name, "height": size[0], "width": size[1], **content}

    def explain(self, image: np.ndarray, size: tuple[int, int], kind: str, label: str) -> Content:
        """The map of one image [h w] as a list of rows that follow each other, with the part of the image that it
        lies over. Errors: `Refused` for a kind that the model has not, `UsageError` for a class."""
        kinds = self.maps.kinds
        if not kinds:
            raise Refused(422, f"{self.name} has no attention to show", HINT)
        chosen = kinds[0] if kind == "auto" else kind
        if chosen not in kinds:
            raise Refused(422, f"{self.name} has no {kind}", f"it has {', '.join(kinds)}")
        index = None if not label else class_index(label, self.predictor.classes)
        found = self.maps.compute(image, chosen, index)
        area = find_visible_area(whole_image(self.predictor.preprocess), *size)
        return {
            "model": self.name, "height": size[0], "width": size[1], "kind": chosen,
            "grid": list(found.values.shape), "values": [round(v, 6) for v in found.values.flatten().tolist()],
            "covers": list(found.covers),
            "area": {
                "top": area.rows.start, "left": area.columns.start, "rows": area.rows.stop - area.rows.start,
                "columns": area.columns.stop - area.columns.start, "canvas": list(area.canvas),
            },
        }  # fmt: skip

    def describe(self) -> Content:
        """Nothing of where it is on the disk."""
        predictor, pre = self.predictor, self.predictor.preprocess
        return {
            "name": self.name, "model": predictor.recipe.model.name, "task": predictor.recipe.task.name,
            "output": predictor.task.output, "multi_label": predictor.task.multi_label,
            "classes": list(predictor.classes), "input": dataclasses.asdict(pre), "attention": list(self.maps.kinds),
            "engine": predictor.engine.name if isinstance(predictor, ExportedPredictor) else TORCH,
            "precision": predictor.choice.name,
            "sha256": digest(weight_files(predictor.source)), "vitrail": __version__,
        }  # fmt: skip


def open_model(name: str, source: str, work: dict[str, Any]) -> ServedModel:
    """Errors: `UsageError`, `CheckpointError`."""
    engine = "" if work["engine"] == "auto" else work["engine"]
    predictor = load_any(source, engine, work["device"], work["threads"], work["checkpoint"],
                         precision=work["precision"], merge=work["merge"])  # fmt: skip
    if predictor.task.is_generative:
        raise UsageError(f"{source} is a generative model: it has no answer to an image", f"vitrail sample {source}")
    batch = work["batch"] or (16 if on_gpu(predictor) else 1)
    return ServedModel(name, predictor, batch)


def on_gpu(predictor: ImagePredictor) -> bool:
    return isinstance(predictor, Predictor) and next(predictor.model.parameters()).device.type != "cpu"


def class_index(label: str, classes: Sequence[str]) -> int:
    if label not in classes:
        raise Refused(422, "the model has no such class", "GET /models lists them")
    return list(classes).index(label)


def resized_area(pre: Any, height: int, width: int) -> float:
    """Pixels of an image once it is resized: a line of pixels grows without limit where its shorter side is given."""
    if pre.resize_mode == "crop":
        scale = max(pre.size[0] / height, pre.size[1] / width) / pre.crop_ratio
        return float(height * scale * width * scale)
    scaled = pre.scaled_size(height, width)
    return float(scaled[0] * scaled[1])


def weight_files(source: Path) -> list[Path]:
    """The files that a model was read from, or would be again."""
    if source.is_file():
        return [source]
    return (
        sorted(p for p in source.iterdir() if (p.suffix in WEIGHTS or p.name == INFO) and p.is_file())
        if source.is_dir()
        else []
    )


def digest(files: Sequence[Path]) -> str:
    """The SHA-256 of the file of weights; of several, that of theirs, in order."""
    found = []
    for path in files:
        if path.suffix != ".json":
            with path.open("rb") as file:
                found.append(hashlib.file_digest(file, "sha256").digest())
    return found[0].hex() if len(found) == 1 else hashlib.sha256(b"".join(found)).hexdigest()
