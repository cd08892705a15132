"""Predictions over a whole set, every image once, on any number of processes."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from vitrail.contracts import Predictions
from vitrail.data.loader import LoadedBatch
from vitrail.data.sampling import Keys
from vitrail.engine.memory import is_out_of_memory, release_memory
from vitrail.engine.precision import Precision
from vitrail.engine.processes.world import World
from vitrail.layers.modes import evaluation_mode

# model, images [B C H W], labels [B ...], ids [B] -> [B W]
Row = Callable[[nn.Module, Tensor, Tensor, np.ndarray], Tensor]


@torch.no_grad()
def predict(
    model: nn.Module,
    row: Row,
    batches: Iterable[LoadedBatch],
    prepare: Callable[[Tensor], Tensor],
    precision: Precision,
) -> Iterator[tuple[LoadedBatch, Tensor]]:
    """The predictions of a model batch by batch, in fp32 on the CPU. The mode of its modules is restored at the end."""
    device = next(model.parameters()).device
    with evaluation_mode(model):
        for loaded in batches:
            with precision.autocast():
                rows = predict_rows(model, row, loaded, prepare, device)
            yield loaded, rows


def predict_rows(
    model: nn.Module, row: Row, loaded: LoadedBatch, prepare: Callable[[Tensor], Tensor], device: torch.device
) -> Tensor:
    """The rows of a batch; of its halves where memory does not suffice, which are the same rows."""
    count = len(loaded.images)
    try:
        return row(model, prepare(loaded.images.to(device)), loaded.labels.to(device), loaded.keys.ids).float().cpu()
    except (RuntimeError, MemoryError) as error:
        if count < 2 or not is_out_of_memory(error):
            raise
    release_memory(device)  # not inside `except`: an error holds on to the tensors of its batch
    halves = [slice(0, count // 2), slice(count // 2, count)]
    parts = [
        LoadedBatch(loaded.images[s], loaded.labels[s], Keys(loaded.keys.epochs[s], loaded.keys.ids[s])) for s in halves
    ]
    return torch.cat([predict_rows(model, row, part, prepare, device) for part in parts])


def gather_predictions(
    parts: Iterable[tuple[LoadedBatch, Tensor]], world: World, width: int, none: Tensor
) -> Predictions:
    """The predictions of all processes in the order of the images, on every process.

    width: numbers in a row. none: the labels of no image, for their shape: a process may have no images.
    """
    rows, targets, ids = [torch.zeros(0, width)], [none], [torch.zeros(0, dtype=torch.int64)]
    for loaded, predicted in parts:
        rows.append(predicted)
        targets.append(loaded.labels)
        ids.append(torch.from_numpy(loaded.keys.ids))
    own = [torch.cat(rows), torch.cat(targets), torch.cat(ids)]
    gathered = [world.all_gather(t.to(world.device)).cpu() for t in own]
    order = torch.argsort(gathered[2])
    return Predictions(gathered[0][order], gathered[1][order])
