"""Reads the images of a split for a model, and predicts them: each once, on any number of processes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitrail.assembly.model import ModelBundle
from vitrail.contracts import ImageReader, Predictions, Task
from vitrail.data.dataset import Split
from vitrail.data.loader import Fetcher, default_workers, evaluation_requests, load_batches
from vitrail.data.sampling import shard_indices
from vitrail.data.transforms.base import Transform
from vitrail.engine.evaluate import Row, gather_predictions, predict
from vitrail.engine.precision import Precision
from vitrail.engine.processes.world import World
from vitrail.inference.windows import GROUP, read_ahead, windowed
from vitrail.layers.modes import evaluation_mode


class TaskReader(ImageReader):
    """A reader that knows the task whose model predicts."""

    task: Task


class SplitReader(TaskReader):
    """The images of a split, read for a model, each by one of the processes."""

    def __init__(
        self,
        bundle: ModelBundle,
        split: Split,
        transform: Transform,
        world: World,
        workers: int | None = None,
        precision: Precision | None = None,
        batch: int = 256,
    ):
        self.bundle, self.split, self.transform, self.world, self.batch = bundle, split, transform, world, batch
        self.workers, self.task = workers, bundle.task
        self.precision = precision or Precision("fp32", world.device.type)

    def by_batch(self, row: Row, width: int) -> Predictions:
        split, world = self.split, self.world
        mine = evaluation_requests(split, shard_indices(len(split), world.rank, world.size), self.batch)
        some = default_workers(split, False, world.size) if self.workers is None else self.workers
        batches = load_batches(Fetcher(split, self.transform), mine, some if len(split) > 4 * self.batch else 0)
        parts = predict(self.bundle.model, row, batches, self.transform.batch, self.precision)
        return gather_predictions(parts, world, width, torch.from_numpy(split.labels[:0]))

    def by_image(self, row: Callable[[Any, Any], Tensor], none: Tensor, keep_annotations: bool) -> Predictions:
        """Boxes are in memory already, so all may be kept."""
        split, world = self.split, self.world
        annotation = split.annotation
        assert annotation is not None
        mine = shard_indices(len(split), world.rank, world.size)
        groups = [mine[i : i + GROUP] for i in range(0, len(mine), GROUP)]
        rows = [none]
        for images, annotations in read_ahead(
            lambda some: ([split.read(int(i)) for i in some], [annotation(int(i)) for i in some]), groups
        ):
            pairs = zip(self.predict_images(images), annotations, strict=True)
            rows.append(torch.stack([row(prediction, true) for prediction, true in pairs]))
        own = [torch.cat(rows), torch.from_numpy(mine)]
        gathered, ids = (world.all_gather(t.to(world.device)).cpu() for t in own)
        annotations = [annotation(i) for i in range(len(split))] if keep_annotations else []
        return Predictions(gathered[torch.argsort(ids)], torch.zeros(0), annotations)

    def predict(self, index: int) -> np.ndarray:
        return self.predict_images([self.split.read(index)])[0]

    def predict_images(self, images: list[np.ndarray]) -> list[np.ndarray]:
        task: Any = self.bundle.task
        with evaluation_mode(self.bundle.model):  # also where a training is going on
            return task.predict_images(windowed(self.bundle, self.precision), images)
