"""One model on several processes, and in less memory: DDP, gradient synchronisation, activation checkpointing."""

import warnings
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from vitrail.contracts import Task, Trunk, trunk_of
from vitrail.engine.joint import JointTask
from vitrail.engine.processes.formulas import checkpointing_of
from vitrail.engine.processes.world import World
from vitrail.errors import UsageError
from vitrail.types import Batch


class LossModule(nn.Module):
    """A task's loss as a module, so that DDP has one forward whatever the task calls on the model."""

    def __init__(self, model: nn.Module, task: Task):
        super().__init__()
        self.model, self.task = model, task

    def forward(self, batch: Batch, outputs: bool = False) -> Any:
        """The named terms of the loss of a batch; or with `outputs` what a `JointTask` computes its loss from."""
        if outputs:
            assert isinstance(self.task, JointTask)
            return self.task.outputs(self.model, batch)
        return self.task.loss(self.model, batch)


def towers_of(net: nn.Module) -> list[Trunk]:
    """The trunk of a model, and those beside it, such as a text tower: all that have blocks."""
    first = trunk_of(net)
    inside = {id(m) for m in first.modules()}
    return [first, *(m for m in net.modules() if isinstance(m, Trunk) and id(m) not in inside)]


def all_blocks(net: nn.Module) -> list[Any]:
    """The blocks of all towers."""
    return [block for tower in towers_of(net) for block in tower.blocks]


def wrap_ddp(loss_of: LossModule, world: World) -> nn.Module:
    """The loss for a training step. DDP reads once, when it is created, which parameters are trained."""
    if world.size == 1:
        return loss_of
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch 2.15 has another name for it, which 2.10 lacks
        return DistributedDataParallel(loss_of, broadcast_buffers=False)


def sync_gradients(loss_of: nn.Module, last: bool) -> AbstractContextManager[None]:
    """DDP all-reduces gradients once a step, at the last micro-batch. FSDP reduces them at each: it holds no whole
    ones."""
    return loss_of.no_sync() if isinstance(loss_of, DistributedDataParallel) and not last else nullcontext()


def recompute(blocks: Iterable[Any], grad_checkpoint: bool | str = True) -> None:
    """Activation checkpointing in place: activations inside blocks are recomputed in the backward pass, "full" or True:
    all of them; "selective": all but those that are costly to compute and small to keep; "none" or False."""
    how = checkpointing_of(grad_checkpoint)
    if how == "none":
        return
    from torch.utils.checkpoint import checkpoint

    context = {"context_fn": selective_contexts} if how == "selective" else {}
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, **context)


def selective_contexts() -> tuple[Any, Any]:
    """What torch's checkpointing asks for: which results are kept (`is_kept`), in the forward and the backward pass."""
    from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

    # called with whatever the operator is called with
    policy = lambda context, operator, *inputs, **options: (  # noqa: E731
        CheckpointPolicy.MUST_SAVE if is_kept(str(operator), inputs) else CheckpointPolicy.PREFER_RECOMPUTE
    )
    contexts: tuple[Any, Any] = create_selective_checkpoint_contexts(policy)
    return contexts


def is_kept(operator: str, inputs: Sequence[Any]) -> bool:
    """Whether a result is kept: of attention, and of a product with a weight that is no wider than its input. Of a
    block of a ViT these are two of four products and a quarter of the memory."""
    if any(word in operator for word in ("scaled_dot_product", "flex_attention")):
        return True
    if not operator.startswith(("aten.mm", "aten.addmm")):
        return False
    a, b = inputs[-2:]  # of addmm the bias is first
    return bool(b.shape[1] <= a.shape[1])


def compile_blocks(blocks: Iterable[Any]) -> None:
    """Compiles the forward pass of each block, in place; what FSDP does before and after it stays outside."""
    import torch

    for block in blocks:
        block.forward = torch.compile(block.forward)


def refuse_batch_norm(model: nn.Module, name: str, device: str) -> None:
    """Errors: `UsageError` for batch norm in a divided model on a CPU, where torch cannot sum its statistics over
    processes: it would norm by those of a process's images."""
    norms = [path for path, m in model.named_modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if norms and device != "cuda":
        what = f"the model has batch norm ({norms[0]} and {len(norms) - 1} more), and torch sums its statistics over"
        raise UsageError(f"{what} processes on GPUs only", f"--parallel ddp instead of {name}, or GPUs")
