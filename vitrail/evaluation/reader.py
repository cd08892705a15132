"""Reads the images of a split for a model, and predicts them: each once, on any number of processes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitrail.assembly.model import ModelBundle
from vitrail.contracts import ImageReader, Predictions, Task
from vitrail.data.dataset import Split
from vitrail.data.loader import Fetcher, LoadedBatch, default_workers, evaluation_requests, load_batches
from vitrail.data.sampling import Keys, shard_indices
from vitrail.data.survey.unreadable import StandIns
from vitrail.data.transforms.base import Transform
from vitrail.engine.evaluate import Row, gather_predictions, predict
from vitrail.engine.precision import Precision
from vitrail.engine.processes.world import World
from vitrail.errors import BadImage
from vitrail.heads.image_text import ImageTextModel
from vitrail.inference.windows import GROUP, read_ahead, windowed
from vitrail.layers.modes import evaluation_mode
from vitrail.tasks.contrastive.evaluator import TextReader


class TaskReader(ImageReader):
    """A reader that knows the task whose model predicts."""

    task: Task


class SplitReader(TaskReader, TextReader):
    """The images of a split, read for a model, each by one of the processes. lost: the images that could not be read
    and were left out of the split, with the reasons; most_lost: how many may be; with 0 the first is an error."""

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
        self.most_lost, self.lost = 0, dict[int, str]()

    def by_batch(self, row: Row, width: int) -> Predictions:
        split, world = self.split, self.world
        mine = evaluation_requests(split, shard_indices(len(split), world.rank, world.size), self.batch)
        some = default_workers(split, False, world.per_machine) if self.workers is None else self.workers
        fetch = Fetcher(split, self.transform, StandIns() if self.most_lost else None)
        batches = load_batches(fetch, mine, some if len(split) > 4 * self.batch else 0)
        parts = predict(self.bundle.model, row, batches, self.transform.batch, self.precision)
        own: dict[int, str] = {}
        predictions = gather_predictions(readable(parts, own), world, width, torch.from_numpy(split.labels[:0]))
        self.leave_out(own)
        return predictions

    def by_image(self, row: Callable[[Any, Any], Tensor], none: Tensor, keep_annotations: bool) -> Predictions:
        """Boxes are in memory already, so all may be kept."""
        split, world = self.split, self.world
        annotation = split.annotation
        assert annotation is not None
        mine = shard_indices(len(split), world.rank, world.size)
        groups = [mine[i : i + GROUP] for i in range(0, len(mine), GROUP)]
        rows = [none]
        lost: dict[int, str] = {}
        for group in read_ahead(lambda some: self.read_group(some, lost), groups):
            images, annotations = [image for image, _ in group], [true for _, true in group]
            pairs = zip(self.predict_images(images) if images else [], annotations, strict=True)
            rows += [row(prediction, true)[None] for prediction, true in pairs]
        own = [torch.cat(rows), torch.from_numpy(np.setdiff1d(mine, list(lost)))]
        gathered, ids = (world.all_gather(t.to(world.device)).cpu() for t in own)
        self.leave_out(lost)
        annotations = [annotation(i) for i in sorted(ids.tolist())] if keep_annotations else []
        return Predictions(gathered[torch.argsort(ids)], torch.zeros(0), annotations)

    def read_group(self, indices: np.ndarray, lost: dict[int, str]) -> list[tuple[np.ndarray, Any]]:
        """Images with their annotations. lost: gets those that cannot be read, where some may be left out."""
        pairs, annotation = [], self.split.annotation
        assert annotation is not None
        for i in indices.tolist():
            try:
                pairs.append((self.split.read(i), annotation(i)))
            except BadImage as error:
                if not self.most_lost:
                    raise
                lost[i] = error.what
        return pairs

    def leave_out(self, own: dict[int, str]) -> None:
        """Takes what no process could read out of the split. Errors: `BadImage` for more than may be left out."""
        if not self.most_lost:
            return
        lost = {i: why for some in self.world.gather_objects(own) for i, why in some.items()}
        if len(lost) > self.most_lost:
            what = f"{len(lost):,} of {len(self.split):,} images cannot be read, the first: {lost[min(lost)]}"
            raise BadImage(what, "vitrail check lists them all; repair or remove them")
        self.lost = lost
        if lost:
            self.split = self.split.select(np.setdiff1d(np.arange(len(self.split)), list(lost)))

    def by_text(self, texts: Sequence[str]) -> Tensor:
        net, world = self.bundle.model, self.world
        assert isinstance(net, ImageTextModel)
        mine = shard_indices(len(texts), world.rank, world.size)
        with self.precision.autocast():
            own = [net.embed_texts([texts[i] for i in mine]), torch.from_numpy(mine)]
        rows, ids = (world.all_gather(t.to(world.device)).cpu() for t in own)
        return rows[torch.argsort(ids)]

    def predict(self, index: int) -> np.ndarray:
        return self.predict_images([self.split.read(index)])[0]

    def predict_images(self, images: list[np.ndarray]) -> list[np.ndarray]:
        task: Any = self.bundle.task
        with evaluation_mode(self.bundle.model):  # also where a training is going on
            return task.predict_images(windowed(self.bundle, self.precision), images)


def readable(parts: Iterable[tuple[LoadedBatch, Tensor]], lost: dict[int, str]) -> Iterator[tuple[LoadedBatch, Tensor]]:
    """The predictions without those of images that could not be read, which `lost` gets."""
    for loaded, rows in parts:
        if loaded.lost:
            lost |= {one.number: one.reason for one in loaded.lost}
            kept = np.delete(np.arange(len(rows)), [one.position for one in loaded.lost])
            keys = Keys(loaded.keys.epochs[kept], loaded.keys.ids[kept])
            loaded, rows = LoadedBatch(loaded.images[kept], loaded.labels[kept], keys), rows[kept]
        yield loaded, rows
