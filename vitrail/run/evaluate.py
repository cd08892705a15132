"""Judging a model on one part of a data set, and keeping the judgement in the run's folder."""

import io
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitrail.data.dataset import Dataset, Split
from vitrail.data.encode import png
from vitrail.data.latents import Latents
from vitrail.data.loader import Fetch, default_workers, evaluation, load
from vitrail.data.preprocess import Preprocess
from vitrail.data.sampling import share_of
from vitrail.engine.evaluate import Predictions, collect, predict
from vitrail.engine.precision import Precision
from vitrail.engine.world import World
from vitrail.errors import DataError
from vitrail.run.folder import RunFolder
from vitrail.run.latents import encoder
from vitrail.run.model import Described
from vitrail.run.scene import GROUP, Viewer, ahead
from vitrail.types import generates
from vitrail.weights.file import write_file

WORST, SPACED = 8, 6  # pictures whose label maps are kept


def judge(described: Described, split: Split, pre: Preprocess | Latents, world: World, workers: int | None = None,
          precision: Precision | None = None, batch: int = 256) -> tuple[Mapping[str, Any], Predictions]:  # fmt: skip
    """Metrics of a part, and the prediction of every picture in it; each is counted once on any number of processes."""
    if not len(split):
        raise DataError("there is nothing to evaluate: this part of the data is empty", "--split names another part")
    prepare: Callable[[Tensor], Tensor] = pre.batch
    if isinstance(pre, Preprocess) and described.recipe.input.vae_hash is not None:
        prepare = encoder(described.recipe.input, world.device)
    if view := viewer(described, pre, precision or Precision("fp32", world.device.type)):
        return scenes(view, split, world)
    mine = evaluation(split, share_of(len(split), world.rank, world.size), batch)
    some = default_workers(split, False, world.size) if workers is None else workers
    batches = load(Fetch(split, pre), mine, some if len(split) > 4 * batch else 0)
    numbers = precision or Precision("fp32", world.device.type)
    parts = predict(described.model, described.task, batches, prepare, numbers)
    width = 1 if generates(described.task) else len(described.classes)
    found = collect(parts, world, width, torch.from_numpy(split.labels[:0]))
    return described.task.metrics(found.rows, found.targets), found


def viewer(described: Described, pre: Preprocess | Latents, precision: Precision) -> Viewer | None:
    """What looks at whole pictures, where the model is for masks or boxes."""
    if isinstance(pre, Latents) or described.task.truth == "classes":
        return None
    return Viewer(described.model, described.task, pre, precision, len(described.classes))


def scenes(view: Viewer, split: Split, world: World) -> tuple[Mapping[str, Any], Predictions]:
    """The same of pictures with masks or boxes, each at its own size: a row is what the task counts in a picture."""
    truth = split.truth
    assert truth is not None
    mine = share_of(len(split), world.rank, world.size)
    groups = [mine[i : i + GROUP] for i in range(0, len(mine), GROUP)]
    rows = [view.task.nothing()]
    was_training = view.model.training
    view.model.eval()
    try:
        for pictures, truths in ahead(lambda some: ([split.read(int(i)) for i in some], [truth(int(i)) for i in some]), groups):
            said = view.said(pictures)
            rows.append(torch.stack([view.task.row(one, true) for one, true in zip(said, truths, strict=True)]))
    finally:
        view.model.train(was_training)
    held = [torch.cat(rows), torch.from_numpy(mine)]
    everything, ids = (world.gather(t.to(world.device)).cpu() for t in held)
    truths = [truth(i) for i in range(len(split))] if view.task.truth == "boxes" else []  # boxes lie in memory
    found = Predictions(everything[torch.argsort(ids)], torch.zeros(0), truths)
    return view.task.metrics(found.rows, truths), found


def match_classes(dataset: Dataset, classes: tuple[str, ...], truth: str) -> None:
    """Errors: `DataError` where the data has a class that the model was not trained on, in another order, or where it says something else
    of its pictures than the model: `truth` is "classes", "masks" or "boxes"."""
    if dataset.kind != truth:
        raise DataError(f"the model tells {truth}, and this data has {dataset.kind}", f"name data that has {truth}")
    if dataset.classes != classes:
        strange = [c for c in dataset.classes if c not in classes]
        what = f"the model does not know {', '.join(map(repr, strange[:5]))}" if strange else "the classes are others, or in another order"
        raise DataError(
            f"{what}; it was trained on {', '.join(map(repr, classes[:8]))}", "classes go by name: rename the folders or labels"
        )


def keep(folder: RunFolder, part: str, metrics: Mapping[str, Any], found: Predictions, split: Split, view: Viewer | None = None) -> None:
    """Writes evaluation/PART.json (metrics) and PART.npz: probabilities and targets, or losses, or of masks and boxes what was counted in
    each picture and how good that is; and the names of the pictures. Of masks, label maps of a few pictures go to evaluation/PART/."""
    folder.evaluation.mkdir(exist_ok=True)
    names, packed = np.array([split.names[i] for i in range(len(split))]), io.BytesIO()
    if "held_out_loss" in metrics:
        np.savez_compressed(packed, losses=found.rows.numpy(), names=names)
    elif view is None:
        np.savez_compressed(packed, probabilities=found.rows.numpy().astype(np.float32), targets=found.targets.numpy(), names=names)
    else:
        scores = view.task.scores(found.rows, found.truths).numpy()
        np.savez_compressed(packed, rows=found.rows.numpy(), scores=scores, names=names)
        if view.task.truth == "masks":
            keep_maps(folder.evaluation / part, split, view, chosen(scores))
    write_file(folder.evaluation / f"{part}.npz", packed.getvalue())
    write_file(folder.evaluation / f"{part}.json", json.dumps(dict(metrics), indent=1).encode())


def chosen(scores: np.ndarray) -> list[int]:
    """Pictures to be shown: the worst, the worst first, and some evenly spaced through all by their score."""
    order = np.argsort(scores, kind="stable")
    spaced = order[np.linspace(0, len(order) - 1, min(SPACED, len(order))).astype(int)]
    return list(dict.fromkeys([*order[:WORST].tolist(), *spaced.tolist()]))


def keep_maps(folder: Path, split: Split, view: Viewer, places: list[int]) -> None:
    """Label maps as grey PNG, named after the places of the pictures."""
    if folder.is_dir():
        shutil.rmtree(folder)
    folder.mkdir()
    for place in places:
        write_file(folder / f"{place:08d}.png", png(view.said([split.read(place)])[0]))


def scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among the metrics, by name."""
    return {k: v for k, v in metrics.items() if isinstance(v, int | float)}


def alone(device: torch.device) -> World:
    return World(0, 1, device)
