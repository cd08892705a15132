"""What a run will need, before it begins: memory for a step, and disk for its checkpoints."""

import shutil
from pathlib import Path

from torch import nn

from vitrail.analysis.cost import cost, format_bytes
from vitrail.errors import DataError
from vitrail.training.session import Session

MOMENTS = {"adamw": 2, "lamb": 2}  # tensors of an optimiser for each weight; the others have one


def estimate_needs(session: Session) -> str:
    """Memory and disk in words. Errors: `DataError` where the disk has less than the checkpoints need."""
    model, recipe = session.state.model, session.recipe
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    moments = MOMENTS.get(recipe.optim.name, 1) * trained
    averages = len(session.state.averages) * weights
    saved = weights + moments + averages
    disk = saved * (recipe.runtime.keep_checkpoints + 1) + 2 * weights  # one more while it is written; best and last
    free, place = free_disk(session.folder.path)
    if disk > free:
        what = f"the checkpoints need about {format_bytes(disk)} of disk, and {place} has {format_bytes(free)} free"
        raise DataError(what, "choose another --out, or free the space it needs")
    memory = saved + trained + activations(model, session.feed.micro_batch)
    return (
        f"about {format_bytes(memory)} of memory for weights, optimiser and micro-batches of "
        f"{session.feed.micro_batch}; {format_bytes(disk)} of disk, {format_bytes(free)} are free"
    )


def activations(model: nn.Module, images: int) -> int:
    """Bytes of the activations of so many images; 0 where they cannot be counted."""
    try:
        return cost(model).activation_bytes * images
    except (RuntimeError, NotImplementedError):
        return 0


def free_disk(path: Path) -> tuple[int, Path]:
    """Free bytes where a folder will be, and the folder above it that exists."""
    existing = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    return shutil.disk_usage(existing).free, existing
