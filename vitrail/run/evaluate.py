"""Judging a model on one part of a data set, and keeping the judgement in the run's folder."""

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from vitrail.data.dataset import Dataset, Split
from vitrail.data.loader import Fetch, default_workers, evaluation, load
from vitrail.data.preprocess import Preprocess
from vitrail.data.sampling import share_of
from vitrail.engine.evaluate import Predictions, collect, predict
from vitrail.engine.precision import Precision
from vitrail.engine.world import World
from vitrail.errors import DataError
from vitrail.run.folder import RunFolder
from vitrail.run.model import Described
from vitrail.weights.file import write_file


def judge(described: Described, split: Split, pre: Preprocess, world: World, workers: int | None = None,
          precision: Precision | None = None, batch: int = 256) -> tuple[Mapping[str, Any], Predictions]:  # fmt: skip
    """Metrics of a part, and the prediction of every picture in it; each is counted once on any number of processes."""
    if not len(split):
        raise DataError("there is nothing to evaluate: this part of the data is empty", "--split names another part")
    mine = evaluation(split, share_of(len(split), world.rank, world.size), batch)
    some = default_workers(split, False, world.size) if workers is None else workers
    batches = load(Fetch(split, pre), mine, some if len(split) > 4 * batch else 0)
    numbers = precision or Precision("fp32", world.device.type)
    parts = predict(described.model, described.task, batches, pre.batch, numbers)
    found = collect(parts, world, len(described.classes), torch.from_numpy(split.labels[:0]))
    return described.task.metrics(found.rows, found.targets), found


def match_classes(dataset: Dataset, classes: tuple[str, ...]) -> None:
    """Errors: `DataError` where the data has a class that the model was not trained on; order is not enough."""
    if dataset.classes != classes:
        strange = [c for c in dataset.classes if c not in classes]
        what = f"the model does not know {', '.join(map(repr, strange[:5]))}" if strange else "the classes are others, or in another order"
        raise DataError(
            f"{what}; it was trained on {', '.join(map(repr, classes[:8]))}", "classes go by name: rename the folders or labels"
        )


def keep(folder: RunFolder, part: str, metrics: Mapping[str, Any], found: Predictions, names: list[str]) -> None:
    """Writes evaluation/PART.json (metrics) and PART.npz (probabilities, targets, names of the pictures)."""
    folder.evaluation.mkdir(exist_ok=True)
    packed = io.BytesIO()
    np.savez_compressed(packed, probabilities=found.rows.numpy().astype(np.float32), targets=found.targets.numpy(), names=np.array(names))
    write_file(folder.evaluation / f"{part}.npz", packed.getvalue())
    write_file(folder.evaluation / f"{part}.json", json.dumps(dict(metrics), indent=1).encode())


def scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among the metrics, by name."""
    return {k: v for k, v in metrics.items() if isinstance(v, int | float)}


def alone(device: torch.device) -> World:
    return World(0, 1, device)
