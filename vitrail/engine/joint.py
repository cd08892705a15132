"""Losses that compare the images of a batch with each other, such as those of images with texts: exact for any number
of processes and of micro-batches.

Outputs of all micro-batches and processes are compared as one batch. Of several micro-batches the outputs are computed
first, without what a backward pass needs, then the gradient of the loss with respect to them, and then each micro-batch
again, now with the gradient of its outputs known (Gao et al. 2021, "Scaling deep contrastive learning batch size under
memory limited setup", arxiv.org/abs/2101.06983): the same gradient in the memory of one, for a second forward pass.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from vitrail.contracts import Task
from vitrail.engine.processes.world import World
from vitrail.types import Batch


class JointOutputs(NamedTuple):
    """What a model gives for some images: tensors with a row for each image, and those that all images share, such as a
    learned temperature."""

    rows: tuple[Tensor, ...]
    shared: tuple[Tensor, ...] = ()


class JointTask(Task):
    """A task whose loss compares the images of a batch with each other."""

    @abstractmethod
    def outputs(self, model: nn.Module, batch: Batch) -> JointOutputs:
        """What the loss is computed from, of some images of the batch."""

    @abstractmethod
    def joint_loss(self, own: JointOutputs, everyone: tuple[Tensor, ...], first: int) -> dict[str, Tensor]:
        """Named terms of the images of this process, whose mean over the processes is the loss of the whole batch.

        everyone: `own.rows` of all processes in their order; the rows of this one begin at `first`."""

    @final
    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The loss of a batch that is whole."""
        own = self.outputs(model, batch)
        return self.joint_loss(own, own.rows, 0)


class GatherRows(torch.autograd.Function):
    """The rows of all processes, each as many; a gradient is the sum of those that the processes have for a row."""

    @staticmethod
    def forward(ctx: FunctionCtx, rows: Tensor, rank: int, size: int) -> Tensor:
        ctx.rank, ctx.count = rank, len(rows)  # type: ignore[attr-defined]
        parts = [torch.empty_like(rows) for _ in range(size)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        whole = gradients[0].contiguous()
        dist.all_reduce(whole)
        return whole[ctx.rank * ctx.count : (ctx.rank + 1) * ctx.count], None, None


def gather_rows(rows: Tensor, world: World) -> Tensor:
    """The rows of all processes in their order, with gradients; collective, also in the backward pass."""
    if world.size == 1:
        return rows
    gathered: Tensor = GatherRows.apply(rows, world.rank, world.size)
    return gathered


def accumulate_joint(
    task: JointTask,
    compute: Callable[[int, bool], JointOutputs],
    counts: Sequence[int],
    world: World,
    backward: Callable[[Tensor, int | None], None],
) -> dict[str, Tensor]:
    """Accumulates the gradients of a step; returns the terms of its loss in this process.

    compute(i, with_gradient): the outputs of micro-batch i, the same whenever it is asked; counts: its images;
    backward(value, i): the backward pass of micro-batch i, or with None that of the loss, scaled where fp16 needs it.
    """
    once = len(counts) == 1
    computed = [compute(i, once) for i in range(len(counts))]
    leaves = JointOutputs(
        tuple(leaf(torch.cat(parts)) for parts in zip(*(one.rows for one in computed), strict=True)),
        tuple(leaf(tensor) for tensor in computed[0].shared),
    )
    everyone = tuple(gather_rows(rows, world) for rows in leaves.rows)
    terms = task.joint_loss(leaves, everyone, world.rank * sum(counts))
    backward(torch.stack(list(terms.values())).sum(), None)
    start = 0
    for i, count in enumerate(counts):
        again = computed[0] if once else compute(i, True)
        parts = [tensor.grad[start : start + count] for tensor in leaves.rows if tensor.grad is not None]
        value = torch.stack([(a * g).sum() for a, g in zip(again.rows, parts, strict=True)]).sum()
        for shared, known in zip(again.shared, leaves.shared, strict=True):  # once: they have no rows to divide
            assert known.grad is not None
            value = value + (shared * (known.grad if i == len(counts) - 1 else 0 * known.grad)).sum()
        backward(value, i)
        start += count
    return {name: term.detach() for name, term in terms.items()}


def leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().float().requires_grad_()
