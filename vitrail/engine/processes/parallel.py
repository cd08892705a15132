"""One model on several processes, and in less memory: DDP, gradient synchronisation, activation checkpointing."""

import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vitrail.contracts import Task
from vitrail.engine.processes.world import World
from vitrail.types import Batch


class LossModule(nn.Module):
    """A task's loss as a module, so that DDP has one forward whatever the task calls on the model."""

    def __init__(self, model: nn.Module, task: Task):
        super().__init__()
        self.model, self.task = model, task

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.task.loss(self.model, batch)


def wrap_ddp(loss_of: LossModule, world: World) -> nn.Module:
    """The loss for a training step. DDP reads once, when it is created, which parameters are trained."""
    if world.size == 1:
        return loss_of
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch 2.15 has another name for it, which 2.10 lacks
        return DistributedDataParallel(loss_of, broadcast_buffers=False)


def sync_gradients(loss_of: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Gradients are all-reduced once a step, at the last micro-batch."""
    return loss_of.no_sync() if isinstance(loss_of, DistributedDataParallel) and not last else nullcontext()


def recompute(blocks: Any) -> None:
    """Activation checkpointing: activations inside blocks are recomputed in the backward pass."""
    from functools import partial

    from torch.utils.checkpoint import checkpoint

    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
