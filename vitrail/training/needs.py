"""What a run needs of memory and disk, and micro-batches that fit into memory, where a recipe leaves them open.

The batch of a step stays, and with it the result, but for rounding, dropout and drop path, whose random numbers depend
on the place in a micro-batch, and batch norm, whose statistics are those of a micro-batch.

On a CPU their number comes from the memory that a step needs by its activations and what the machine has; on a GPU two
small steps are measured once. Neither asks what is free at the moment, nor a clock. What was chosen is saved in the
recipe of the run.
"""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from vitrail.analysis.cost import cost, format_bytes
from vitrail.contracts import trunk_of
from vitrail.data.loader import Fetcher
from vitrail.data.sampling import Keys
from vitrail.engine.freeze import set_train_mode
from vitrail.engine.memory import (
    StepMemory,
    fit_images,
    is_out_of_memory,
    release_memory,
    running_statistics,
    usable_memory,
)
from vitrail.engine.processes.formulas import checkpointing_of, kept_share
from vitrail.engine.processes.parallel import LossModule
from vitrail.engine.processes.world import World
from vitrail.engine.teacher import add_targets
from vitrail.errors import DataError
from vitrail.training.feed import slice_batch
from vitrail.training.session import Session

STATE_TENSORS = {"adamw": 2, "lamb": 2}  # tensors of an optimiser for each weight; the others have one
SMALL_MODEL, SMALL_BATCH = 2**21, 2**19  # weights, and pixels of a batch: at most some 100 MB
KEPT = 1.75  # memory of a step by its activations: gradients of the widest layers and copies for attention come on top


def fit_micro_batch(session: Session) -> None:
    """Sets micro-batches that fit, where `runtime.micro_batch` is open and those of the whole batch do not. The same on
    every process."""
    if session.recipe.runtime.micro_batch is not None or session.features is not None or is_small(session):
        return
    world, feed = session.world, session.feed
    least = least_images(session)
    step = world.on_rank_zero(lambda: step_memory(session, least))
    budget = world.on_rank_zero(lambda: usable_memory(world.device))
    if world.device.type == "cpu":
        budget //= world.per_machine
    if step is None or not budget:
        return
    size = fit_images(feed.micro_batch, step, budget, least)
    if size >= feed.micro_batch:
        return
    session.feed = dataclasses.replace(feed, micro_batch=size)
    runtime = dataclasses.replace(session.recipe.runtime, micro_batch=size)
    session.recipe = dataclasses.replace(session.recipe, runtime=runtime)
    needed = format_bytes(step.fixed + step.each * feed.micro_batch)
    norm = "; statistics of batch norm are those of so many images" if running_statistics(session.state.model) else ""
    session.notes.append(
        f"runtime.micro_batch = {size}: {feed.micro_batch} images at once need about {needed}, and "
        f"{format_bytes(budget)} may be used; the batch stays {feed.batch}{norm}"
    )


def is_small(session: Session) -> bool:
    """Whether a step surely fits anywhere, so that nothing needs to be counted."""
    height, width = session.recipe.input.size or (0, 0)
    weights = sum(p.numel() for p in session.state.model.parameters())
    pixels = session.feed.micro_batch * session.feed.transform.views * height * width
    return weights <= SMALL_MODEL and pixels <= SMALL_BATCH


def least_images(session: Session) -> int:
    """Two where images are paired, or batch norm needs a spread."""
    return 2 if session.feed.mixing.is_on or running_statistics(session.state.model) else 1


def step_memory(session: Session, least: int) -> StepMemory | None:
    """What a step of the session takes; None where it is not known."""
    if session.world.device.type == "cuda":
        return measure_step(session, least)
    return estimate_step(session)


def estimate_step(session: Session) -> StepMemory | None:
    """By the sizes of weights, gradients, the optimiser's tensors and averages, and of the activations of the blocks
    that learn now or later."""
    net, recipe = session.state.model, session.recipe
    each = round(activation_bytes(net) * session.feed.transform.views)
    blocks = list(trunk_of(net).blocks)
    learning = [i for i, block in enumerate(blocks) if any(p.requires_grad for p in block.parameters())]
    if not session.unfreeze_stages and not all(p.requires_grad for p in net.parameters()) and blocks:
        each = each * max(1, len(blocks) - min(learning, default=len(blocks))) // len(blocks)
    if blocks:
        each = round(each * kept_share(checkpointing_of(recipe.runtime.grad_checkpoint), len(blocks)))
    return StepMemory(sum(state_bytes(session)) // session.parallel.shards, round(KEPT * each)) if each else None


def state_bytes(session: Session) -> tuple[int, int]:
    """Bytes of weights, optimiser and averages, which a checkpoint holds; and of gradients."""
    net = session.state.model
    later = {id(p) for stage in session.unfreeze_stages for p in stage.parameters}
    weights = sum(p.numel() * p.element_size() for p in net.parameters())
    trained = sum(p.numel() * p.element_size() for p in net.parameters() if p.requires_grad or id(p) in later)
    optimizer = STATE_TENSORS.get(session.recipe.optim.name or "adamw", 1) * trained
    return weights * (1 + len(session.state.averages)) + optimizer, trained


def activation_bytes(net: nn.Module) -> int:
    """Bytes of the activations of an image; 0 where they cannot be counted."""
    try:
        return cost(net).activation_bytes
    except (RuntimeError, NotImplementedError):
        return 0


def measure_step(session: Session, least: int) -> StepMemory | None:
    """By the peaks of two small steps on the device, of the first training images, without an update; None where even
    the smaller one does not fit."""
    small = min(max(2, least), session.feed.micro_batch)
    device, peaks = session.world.device, []
    statistics = running_statistics(session.state.model)
    before = [values.clone() for values in statistics]
    for images in (small, small, 2 * small):  # the first once more: libraries allocate what they keep
        try:
            peaks.append(peak_of_step(session, images))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            peaks.clear()
        session.state.optimizer.zero_grad(set_to_none=True)
        release_memory(device)
        if not peaks:
            return None
    for values, old in zip(statistics, before, strict=True):
        values.copy_(old)
    each = max(1, (peaks[2] - peaks[1]) // small)
    own, _ = state_bytes(session)
    weights = sum(p.numel() * p.element_size() for p in session.state.model.parameters())
    averages = len(session.state.averages) * weights
    fixed = peaks[1] - small * each + max(0, own - weights - averages)
    return StepMemory(fixed // session.parallel.shards, each)


def peak_of_step(session: Session, images: int) -> int:
    """The most bytes that are allocated while the gradients of the first images are computed."""
    device = session.world.device
    split = session.dataset.splits["train"]
    ids = np.arange(images) % len(split)
    loaded = Fetcher(split, session.feed.transform)(Keys(np.zeros(images, np.int64), ids))
    alone = World(0, 1, device)
    feed = dataclasses.replace(session.feed, micro_batch=images)
    micro_batch = feed.micro_batches(slice_batch(loaded, slice(0, images)), alone)[0]
    torch.cuda.reset_peak_memory_stats(device)
    set_train_mode(session.state.model)
    reduce = alone.all_reduce_sum
    batch = next(add_targets(session.state, lambda _: feed.prepare(micro_batch, 0), 1, session.precision, reduce))
    with session.precision.autocast():
        terms: dict[str, Any] = LossModule(session.state.model, session.bundle.task)(batch)
    torch.stack(list(terms.values())).sum().backward()
    return torch.cuda.max_memory_allocated(device)


def estimate_needs(session: Session) -> str:
    """Memory and disk in words. Errors: `DataError` where the disk has less than the checkpoints need."""
    net, size = session.state.model, session.feed.micro_batch
    weights = sum(p.numel() * p.element_size() for p in net.parameters())
    saved, gradients = state_bytes(session)
    disk = saved * (session.recipe.runtime.keep_checkpoints + 1) + 2 * weights  # one more while written; best and last
    free, place = free_disk(session.folder.path)
    if disk > free:
        what = f"the checkpoints need about {format_bytes(disk)} of disk, and {place} has {format_bytes(free)} free"
        raise DataError(what, "choose another --out, or free the space it needs")
    parallel = session.parallel
    memory = (saved + gradients) // parallel.shards + round(activation_bytes(net) * session.feed.transform.views) * size
    each = f" in each process ({parallel.name}: {parallel.reason})" if parallel.reason else ""
    return (
        f"about {format_bytes(memory)} of memory for weights, optimiser and micro-batches of {size}{each}; "
        f"{format_bytes(disk)} of disk, {format_bytes(free)} are free"
    )


def free_disk(path: Path) -> tuple[int, Path]:
    """Free bytes where a folder will be, and the folder above it that exists."""
    existing = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    return shutil.disk_usage(existing).free, existing
