"""Exported models: a folder with the file of an engine and `model.json`, which says what the file takes and answers."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vitrail.assembly.resolve import Names
from vitrail.assembly.restore import Description, as_checkpoint_error, parse_description
from vitrail.contracts import DenseTask, Task
from vitrail.engine.precision import FP32, PrecisionChoice
from vitrail.errors import CheckpointError
from vitrail.inference.engine import Engine
from vitrail.inference.graph import OUTPUTS, ImageType
from vitrail.inference.image_predictor import ImagePredictor
from vitrail.inference.windows import WindowedPredictor
from vitrail.recipe import Recipe
from vitrail.storage.json_text import from_json, to_json
from vitrail.validation import Positive, check_fields

INFO = "model.json"
FIELDS: dict[str, Any] = {  # of `ExportInfo`, as JSON has them
    "file": str, "export_format": str, "inputs": list[str], "outputs": list[str], "image_type": ImageType,
    "size": list[Positive], "any_size": bool, "any_batch": bool, "sha256": str, "source_sha256": str, "version": str,
    "precision": str, "licence": str,
}  # fmt: skip


@dataclass(frozen=True)
class ExportInfo:
    """What `model.json` says, beside the description of the model (`assembly.model.describe_bundle`)."""

    file: str  # beside model.json
    export_format: str
    inputs: tuple[str, ...]  # names, in order; none of weights alone
    outputs: tuple[str, ...]
    image_type: ImageType
    size: tuple[int, int]  # height and width of the images that it takes
    any_size: bool  # or any other height and width
    sha256: str  # of the file
    source_sha256: str  # of the weights that it was made of
    version: str  # of vitrail
    precision: str = "fp32"  # or "int8"
    licence: str = ""  # of the published weights that it began with, if any
    any_batch: bool = True  # or one image at a time


def info_json(info: ExportInfo, description: dict[str, Any], about: dict[str, Any]) -> bytes:
    """The content of `model.json`. about: the same in plain words, for whoever reads it without vitrail."""
    return to_json({"export": asdict(info), **about, **description}, indent=1).encode()


def read_info(folder: Path) -> tuple[ExportInfo, Description]:
    """What a folder's `model.json` says, every field checked. Errors: `CheckpointError`."""
    path = folder / INFO
    try:
        about = from_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}", "vitrail export RUN writes it") from None
    check_fields(about if isinstance(about, dict) else {}, {"export": dict[str, Any]}, str(path))
    rows = about.pop("export")
    check_fields(rows, FIELDS, str(path))
    if Path(rows["file"]).name != rows["file"] or not rows["file"].isprintable():
        raise CheckpointError(f"{path} names no file in its folder: {rows['file'][:100]!a}", "export it again")
    if len(rows["size"]) != 2:
        raise CheckpointError(f"{path} has a size of {len(rows['size'])} numbers", "export it again")
    values: dict[str, Any] = {key: tuple(v) if isinstance(v := rows[key], list) else v for key in FIELDS}
    info, description = ExportInfo(**values), parse_description(about, path)
    if description.recipe.input.size != info.size:  # images are resized as the recipe says
        what = f"{path} has two sizes: {show_size(info.size)} and {show_size(description.recipe.input.size or ())}"
        raise CheckpointError(what, "it was edited; export it again")
    return info, description


def show_size(size: Sequence[int]) -> str:
    return "x".join(map(str, size)) or "none"


@dataclass(frozen=True, repr=False)
class ExportedPredictor(ImagePredictor):
    """A model that an engine runs from a file, without its weights in torch."""

    engine: Engine
    classes: tuple[str, ...]
    recipe: Recipe
    task: Task
    source: Path
    choice: PrecisionChoice = FP32

    def predict_pixels(self, images: Sequence[np.ndarray]) -> Sequence[Any]:
        """uint8 [H W C] each -> probabilities [K], a label map or boxes of each."""
        pre, task = self.preprocess, self.task
        run = self.engine.predict_windows(OUTPUTS[task.output][0])
        if isinstance(task, DenseTask):
            return task.predict_images(WindowedPredictor(run, pre, len(self.classes)), images)
        batch = torch.stack([pre.image(pixels) for pixels in images])
        return list(run(batch, torch.tensor([batch.shape[-2:]]).expand(len(batch), 2)))


def build_exported(engine: Engine, description: Description, source: Path) -> ExportedPredictor:
    """A predictor of an engine with what `model.json` says of its model. Errors: `CheckpointError`."""
    with as_checkpoint_error(source):
        task = Names().task(description.recipe.task, len(description.classes), description.multi_label)
        classes = task.output_names(description.classes)
    return ExportedPredictor(engine, classes, description.recipe, task, source)
