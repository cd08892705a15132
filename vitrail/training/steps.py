"""The steps that a session has still to do: their batches, and what of the recipe each depends on."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from vitrail.data.loader import Fetcher, TrainRequests, load_batches
from vitrail.engine.memory import peak_memory, running_statistics
from vitrail.engine.schedule import lr_factor
from vitrail.engine.signals import StopSignal
from vitrail.engine.train import LoopSettings, MicroBatch
from vitrail.errors import CheckpointError, RunError
from vitrail.training.feed import build_stream, slice_batch
from vitrail.training.reading.skipped import SkippedImages
from vitrail.training.session import Session
from vitrail.types import Batch, each_tensor


def remaining_batches(session: Session, is_stopped: Callable[[], bool] = bool) -> Iterator[list[MicroBatch]]:
    """The micro-batches of every step that is still to do: the batch of a step is a function of the step alone. A
    single process that waits for workers ends them when `is_stopped`; of several each ends at the same step."""
    cached, world = session.features, session.world
    split = (cached.splits if cached else session.dataset.splits)["train"]
    stream = build_stream(session.recipe, split)
    requests = TrainRequests(stream, session.state.step, session.steps, world.rank, world.size)
    skipped = SkippedImages(session, split)
    fetch, limit = Fetcher(split, session.feed.transform, skipped.stand_ins), session.recipe.runtime.timeout
    alone = is_stopped if world.size == 1 else bool
    with skipped.explain():
        for loaded in load_batches(fetch, requests, 0 if cached else session.workers, limit, alone):
            skipped.add(loaded)
            yield session.feed.micro_batches(loaded, world)


def loop_settings(session: Session, stop: StopSignal) -> LoopSettings:
    """What of a recipe a step depends on; the learning rate is a function of the step."""
    o = session.recipe.optim
    peak, warmup, steps = o.lr or 0.0, o.warmup_steps or 0, session.steps
    return LoopSettings(
        lr_at=lambda step: peak * lr_factor(step, steps, warmup, o.schedule or "cosine", o.min_lr_ratio),
        prepare=channels_last(session)
        if session.recipe.runtime.channels_last and session.features is None
        else session.feed.prepare,
        clip_grad=o.clip_grad,
        seed=session.recipe.train.seed,
        precision=session.precision,
        world=session.world,
        stop_requested=stop.is_requested,
        unfreeze_stages=session.unfreeze_stages,
        shrink=partial(shrink_micro_batches, session),
        model=session.features.model if session.features else None,
        steps=steps,
    )


def shrink_micro_batches(session: Session, micro_batches: list[MicroBatch]) -> list[MicroBatch]:
    """The same images in micro-batches of half the size, now and from here on. The batch of a step stays; the change is
    reported and saved. Errors: `RunError` where they cannot be smaller, or other processes wait inside the step."""
    feed, size = session.feed, max(one.loaded.size for one in micro_batches)
    pairs = 2 if feed.mixing.is_on else 1
    least = max(pairs, 2 if running_statistics(session.state.model) else 1)  # of one image batch norm has no spread
    half = max(least, size // 2 // pairs * pairs)
    if half >= size or session.world.size > 1:
        raise out_of_memory(session, size, half)
    session.feed = dataclasses.replace(feed, micro_batch=half)
    runtime = dataclasses.replace(session.recipe.runtime, micro_batch=half)
    session.recipe = dataclasses.replace(session.recipe, runtime=runtime)
    with contextlib.suppress(OSError, CheckpointError):  # for a resume, which would find out again
        session.folder.describe(session.recipe, session.folder.about())
    norm = "; statistics of batch norm are now those of fewer images" if least == 2 and pairs == 1 else ""
    what = f"out of memory at step {session.state.step + 1}: micro-batches of {half} images from here on, not {size}"
    session.news.append(f"{what}; the batch stays {feed.batch}{norm}")
    return [
        MicroBatch(slice_batch(one.loaded, slice(s, s + half)), one.first + s)
        for one in micro_batches
        for s in range(0, one.loaded.size, half)
    ]


def out_of_memory(session: Session, size: int, half: int) -> RunError:
    """The error with the sizes of the step, and what needs less."""
    height, width = session.recipe.input.size or (0, 0)
    channels, model = session.recipe.input.channels, session.recipe.model.name
    what = (
        f"out of memory at step {session.state.step + 1}: {model}, batch {session.feed.batch}, micro-batches of {size} "
    )
    what += f"images of {height}x{width}, {channels} channels{peak_memory(session.world.device)}"
    smaller = f"--runtime.micro-batch {half} (same batch), " if half < size else ""
    return RunError(what, f"{smaller}--runtime.grad-checkpoint, a smaller --img-size, or a smaller --model")


def channels_last(session: Session) -> Callable[[MicroBatch, int], Batch]:
    """Batches whose images lie in memory as the weights of the model do."""

    def prepare(micro_batch: MicroBatch, step: int) -> Batch:
        batch = session.feed.prepare(micro_batch, step)
        return Batch(each_tensor(with_channels_last, batch.inputs), batch.targets)

    return prepare


def with_channels_last(images: Tensor) -> Tensor:
    """[... C H W], the channels of a pixel side by side."""
    return images.reshape(-1, *images.shape[-3:]).contiguous(memory_format=torch.channels_last).view(images.shape)
