"""Predictions over a whole set, every picture once, on any number of processes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vitrail.data.loader import Loaded
from vitrail.engine.precision import Precision
from vitrail.engine.world import World
from vitrail.types import Task, generates


class Predictions(NamedTuple):
    """Row i is what was said of the i-th picture, and what is true of it."""

    rows: Tensor
    targets: Tensor
    truths: Sequence[Any] = ()  # of boxes, where what is true of a picture is no tensor


@torch.no_grad()
def predict(
    model: nn.Module, task: Task, batches: Iterable[Loaded], prepare: Callable[[Tensor], Tensor], precision: Precision
) -> Iterator[tuple[Loaded, Tensor]]:
    """Batch by batch, what the model says, in fp32 on the CPU. The model's mode is put back at the end."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    try:
        for loaded in batches:
            with precision.autocast():
                rows = said(model, task, prepare(loaded.pictures.to(device)), loaded)
            yield loaded, rows.float().cpu()
    finally:
        model.train(was_training)


def said(model: nn.Module, task: Any, images: Tensor, loaded: Loaded) -> Tensor:
    """A row for each picture: what the model says of it, or how well it denoises it."""
    if generates(task):
        rows: Tensor = task.held_out(model, images, loaded.labels.to(images.device), loaded.keys.ids)
        return rows
    predicted: Tensor = task.predict(model, images)
    return predicted


def collect(parts: Iterable[tuple[Loaded, Tensor]], world: World, width: int, none: Tensor) -> Predictions:
    """The predictions of all processes in the order of the pictures, on every process.

    width: numbers in a row. none: the labels of no picture, for their shape: a process may have nothing to do.
    """
    rows, targets, ids = [torch.zeros(0, width)], [none], [torch.zeros(0, dtype=torch.int64)]
    for loaded, said in parts:
        rows.append(said)
        targets.append(loaded.labels)
        ids.append(torch.from_numpy(loaded.keys.ids))
    held = [torch.cat(rows), torch.cat(targets), torch.cat(ids)]
    everything = [world.gather(t.to(world.device)).cpu() for t in held]
    place = torch.argsort(everything[2])
    return Predictions(everything[0][place], everything[1][place])
