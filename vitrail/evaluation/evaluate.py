"""Evaluates a model on one split of a data set, and saves the evaluation in the run's folder."""

import io
import shutil
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from vitrail.assembly.latents import evaluation_transform
from vitrail.assembly.model import ModelBundle
from vitrail.assembly.run_directory import RunFolder
from vitrail.contracts import Predictions
from vitrail.data.dataset import Split
from vitrail.data.survey.assess import most_left_out
from vitrail.data.transforms.base import Transform
from vitrail.engine.precision import Precision
from vitrail.engine.processes.world import World
from vitrail.errors import DataError
from vitrail.evaluation.intervals import measure_interval
from vitrail.evaluation.reader import SplitReader, TaskReader
from vitrail.recipe import DataConfig
from vitrail.storage.atomic import write_file
from vitrail.storage.json_text import to_json


class Evaluation(NamedTuple):
    """An evaluation. images: a reader, to predict some of them again."""

    metrics: Mapping[str, Any]
    predictions: Predictions
    images: TaskReader


def evaluate(
    bundle: ModelBundle,
    split: Split,
    world: World,
    transform: Transform | None = None,
    workers: int | None = None,
    precision: Precision | None = None,
    batch: int = 256,
    most_lost: int = 0,
) -> Evaluation:
    """Metrics of a split, and the prediction of every image in it; each is counted once on any number of processes.
    transform: from images to the inputs of the model, by default as its recipe sets. most_lost: how many images may
    turn out to be unreadable; they are left out, and counted under "unreadable"."""
    if not len(split):
        raise DataError("there is nothing to evaluate: this part of the data is empty", "--split names another part")
    transform = transform or evaluation_transform(bundle.recipe.input, world.device)
    images, evaluator = SplitReader(bundle, split, transform, world, workers, precision, batch), bundle.task.evaluator()
    images.most_lost = most_lost
    predictions = evaluator.predictions(images)
    lost = {"unreadable": len(images.lost)} if images.lost else {}
    return Evaluation({**evaluator.metrics(predictions), **lost}, predictions, images)


def most_unreadable(data: DataConfig, count: int) -> int:
    """How many of so many images may turn out to be unreadable: by `data.on_error` and `data.max_errors`."""
    return most_left_out(count, data.max_errors) if data.on_error == "skip" else 0


def with_interval(evaluation: Evaluation) -> Evaluation:
    """The same, with the 95 % interval of the metric that ranks models under "interval", where it has one."""
    interval = measure_interval(evaluation.images.task, evaluation.metrics, evaluation.predictions)
    return evaluation._replace(metrics={**evaluation.metrics, **({"interval": interval} if interval else {})})


def with_weights(evaluation: Evaluation, weights: Mapping[str, Any]) -> Evaluation:
    """The same, with the weights that it is of, for its record."""
    return evaluation._replace(metrics={**evaluation.metrics, "weights": dict(weights)})


def write_evaluation(folder: RunFolder, part: str, evaluation: Evaluation) -> None:
    """Writes evaluation/PART.json (metrics), PART.npz (the evaluator's arrays, and the names of the images), and PART/
    with further files of a few images, if there are any."""
    folder.evaluation.mkdir(exist_ok=True)
    split, evaluator = evaluation.images.split, evaluation.images.task.evaluator()
    names, packed = np.array([split.names[i] for i in range(len(split))]), io.BytesIO()
    np.savez_compressed(packed, **evaluator.arrays(evaluation.predictions), names=names)  # type: ignore[arg-type]
    files, subfolder = evaluator.files(evaluation.predictions, evaluation.images), folder.evaluation / part
    if subfolder.is_dir():
        shutil.rmtree(subfolder)
    if files:
        subfolder.mkdir()
    for name, content in files.items():
        write_file(subfolder / name, content)
    write_file(folder.evaluation / f"{part}.npz", packed.getvalue())
    write_file(folder.evaluation / f"{part}.json", to_json(dict(evaluation.metrics), indent=1).encode())


def scalar_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among the metrics, by name."""
    return {k: v for k, v in metrics.items() if isinstance(v, int | float)}
