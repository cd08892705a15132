"""Judging a model on one part of a data set, and keeping the judgement in the run's folder."""

import io
import json
import shutil
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vitrail.assembly.latents import evaluation_transform
from vitrail.assembly.model import ModelBundle
from vitrail.assembly.run_directory import RunFolder
from vitrail.contracts import ImageReader, Predictions, Task
from vitrail.data.dataset import Dataset, Split
from vitrail.data.loader import Fetcher, default_workers, evaluation_requests, load_batches
from vitrail.data.sampling import shard_indices
from vitrail.data.transforms.base import Transform
from vitrail.engine.evaluate import Row, gather_predictions, predict
from vitrail.engine.precision import Precision
from vitrail.engine.world import World
from vitrail.errors import DataError
from vitrail.inference.windows import GROUP, read_ahead, windowed
from vitrail.storage.atomic import write_file


class Evaluation(NamedTuple):
    """What was measured. images: to look again at some of them."""

    metrics: Mapping[str, Any]
    predictions: Predictions
    images: "SplitReader"


class SplitReader(ImageReader):
    """The images of a split, read for a model, each by one of the processes."""

    def __init__(self, bundle: ModelBundle, split: Split, transform: Transform, world: World, workers: int | None = None,
                 precision: Precision | None = None, batch: int = 256):  # fmt: skip
        self.bundle, self.split, self.transform, self.world, self.batch = bundle, split, transform, world, batch
        self.workers = workers
        self.precision = precision or Precision("fp32", world.device.type)

    def by_batch(self, row: Row, width: int) -> Predictions:
        split, world = self.split, self.world
        mine = evaluation_requests(split, shard_indices(len(split), world.rank, world.size), self.batch)
        some = default_workers(split, False, world.size) if self.workers is None else self.workers
        batches = load_batches(Fetcher(split, self.transform), mine, some if len(split) > 4 * self.batch else 0)
        parts = predict(self.bundle.model, row, batches, self.transform.batch, self.precision)
        return gather_predictions(parts, world, width, torch.from_numpy(split.labels[:0]))

    def by_image(self, row: Callable[[Any, Any], Tensor], none: Tensor, keep_annotations: bool) -> Predictions:
        """Boxes lie in memory, so that all may be kept."""
        split, world, model = self.split, self.world, self.bundle.model
        annotation = split.annotation
        assert annotation is not None
        mine = shard_indices(len(split), world.rank, world.size)
        groups = [mine[i : i + GROUP] for i in range(0, len(mine), GROUP)]
        rows = [none]
        was_training = model.training
        model.eval()
        try:
            for images, annotations in read_ahead(
                lambda some: ([split.read(int(i)) for i in some], [annotation(int(i)) for i in some]), groups
            ):
                rows.append(
                    torch.stack(
                        [row(one, true) for one, true in zip(self.predict_images(images), annotations, strict=True)]
                    )
                )
        finally:
            model.train(was_training)
        held = [torch.cat(rows), torch.from_numpy(mine)]
        everything, ids = (world.all_gather(t.to(world.device)).cpu() for t in held)
        annotations = [annotation(i) for i in range(len(split))] if keep_annotations else []
        return Predictions(everything[torch.argsort(ids)], torch.zeros(0), annotations)

    def predict(self, index: int) -> np.ndarray:
        return self.predict_images([self.split.read(index)])[0]

    def predict_images(self, images: list[np.ndarray]) -> list[np.ndarray]:
        task: Any = self.bundle.task
        return task.predict_images(windowed(self.bundle, self.precision), images)


def evaluate(bundle: ModelBundle, split: Split, world: World, transform: Transform | None = None, workers: int | None = None,
             precision: Precision | None = None, batch: int = 256) -> Evaluation:  # fmt: skip
    """Metrics of a part, and the prediction of every image in it; each is counted once on any number of processes. transform: from
    images to what the model takes, by default as its recipe says."""
    if not len(split):
        raise DataError("there is nothing to evaluate: this part of the data is empty", "--split names another part")
    through = transform or evaluation_transform(bundle.recipe.input, world.device)
    images, evaluator = SplitReader(bundle, split, through, world, workers, precision, batch), bundle.task.evaluator()
    predictions = evaluator.predictions(images)
    return Evaluation(evaluator.metrics(predictions), predictions, images)


def match_classes(dataset: Dataset, classes: tuple[str, ...], task: Task) -> None:
    """Errors: `DataError` where the data has a class that the model was not trained on, in another order, or where it says something else
    of its images than what the task learns from."""
    if not task.learns_from(dataset.kind):
        raise DataError(
            f"the model tells {task.annotations}, and this data has {dataset.kind}",
            f"name data that has {task.annotations}",
        )
    if task.output_names(dataset.classes) != classes:
        strange = [c for c in dataset.classes if c not in classes]
        what = (
            f"the model does not know {', '.join(map(repr, strange[:5]))}"
            if strange
            else "the classes are others, or in another order"
        )
        raise DataError(
            f"{what}; it was trained on {', '.join(map(repr, classes[:8]))}",
            "classes go by name: rename the folders or labels",
        )


def write_evaluation(folder: RunFolder, part: str, found: Evaluation) -> None:
    """Writes evaluation/PART.json (metrics), PART.npz (what the evaluator keeps of each image, and their names), and PART/ with further
    files of a few images, where there are such."""
    folder.evaluation.mkdir(exist_ok=True)
    split, evaluator = found.images.split, found.images.bundle.task.evaluator()
    names, packed = np.array([split.names[i] for i in range(len(split))]), io.BytesIO()
    np.savez_compressed(packed, **evaluator.arrays(found.predictions), names=names)  # type: ignore[arg-type]
    files, beside = evaluator.files(found.predictions, found.images), folder.evaluation / part
    if beside.is_dir():
        shutil.rmtree(beside)
    if files:
        beside.mkdir()
    for name, content in files.items():
        write_file(beside / name, content)
    write_file(folder.evaluation / f"{part}.npz", packed.getvalue())
    write_file(folder.evaluation / f"{part}.json", json.dumps(dict(found.metrics), indent=1).encode())


def scalar_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among the metrics, by name."""
    return {k: v for k, v in metrics.items() if isinstance(v, int | float)}
