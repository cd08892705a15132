"""The steps that a session has still to do: their batches, and what of the recipe each depends on."""

from collections.abc import Callable, Iterator

import torch

from vitrail.data.loader import Fetcher, TrainRequests, load_batches
from vitrail.engine.schedule import lr_factor
from vitrail.engine.signals import StopSignal
from vitrail.engine.train import LoopSettings, MicroBatch
from vitrail.training.feed import build_stream
from vitrail.training.session import Session
from vitrail.types import Batch


def remaining_batches(session: Session, is_stopped: Callable[[], bool] = bool) -> Iterator[list[MicroBatch]]:
    """The micro-batches of every step that is still to do: the batch of a step is a function of the step alone. A
    single process that waits for workers ends them when `is_stopped`; of several each ends at the same step."""
    split, world = session.dataset.splits["train"], session.world
    stream = build_stream(session.recipe, split)
    requests = TrainRequests(stream, session.state.step, session.steps, world.rank, world.size)
    fetch, limit = Fetcher(split, session.feed.transform), session.recipe.runtime.timeout
    alone = is_stopped if world.size == 1 else bool
    for loaded in load_batches(fetch, requests, session.workers, limit, alone):
        yield session.feed.micro_batches(loaded, world)


def loop_settings(session: Session, stop: StopSignal) -> LoopSettings:
    """What of a recipe a step depends on; the learning rate is a function of the step."""
    o = session.recipe.optim
    peak, warmup, steps = o.lr or 0.0, o.warmup_steps or 0, session.steps
    return LoopSettings(
        lr_at=lambda step: peak * lr_factor(step, steps, warmup, o.schedule or "cosine", o.min_lr_ratio),
        prepare=channels_last(session) if session.recipe.runtime.channels_last else session.feed.prepare,
        clip_grad=o.clip_grad,
        seed=session.recipe.train.seed,
        precision=session.precision,
        world=session.world,
        stop_requested=stop.is_requested,
        unfreeze_stages=session.unfreeze_stages,
    )


def channels_last(session: Session) -> Callable[[MicroBatch, int], Batch]:
    """Batches whose images lie in memory as the weights of the model do."""

    def prepare(micro_batch: MicroBatch, step: int) -> Batch:
        batch = session.feed.prepare(micro_batch, step)
        return Batch(batch.inputs.contiguous(memory_format=torch.channels_last), batch.targets)

    return prepare
