"""Tasks whose teacher is an average of the model's own weights, a mean teacher (Tarvainen and Valpola 2017,
arxiv.org/abs/1703.01780).

The teacher is the average that a run has anyway (`optim.ema_decay`): it is in every checkpoint, is divided among
processes as the model is, and is what evaluations and the finished weights are of. What is different here: it begins as
a copy of the initial weights, its decay is the task's, and it is run in every step.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from vitrail.contracts import Task
from vitrail.engine.precision import Precision
from vitrail.engine.state import State
from vitrail.types import Batch


class MeanTeacher(ABC):
    """What such a task has, beside what every task has. `balances_targets`: the targets of an image depend on the
    others of the batch. `chance_advice`: what to do where the training loss ends at that of chance."""

    balances_targets: bool = False
    chance_advice: str = ""

    @abstractmethod
    def decay(self, base: float, step: int, steps: int) -> float:
        """The decay of the average after `step` updates of `steps`; base: `optim.ema_decay`."""

    @abstractmethod
    def begin_step(self, step: int, steps: int) -> None:
        """Before the gradients of a step are computed, and again where memory did not suffice for them. step: the
        updates before it."""

    @abstractmethod
    def teach(self, teacher: nn.Module, batch: Batch) -> Batch:
        """A micro-batch with the targets that the teacher gives, without gradients. The teacher is in evaluation mode,
        and may only be called: its weights may be divided among processes."""

    @abstractmethod
    def balance(self, targets: Sequence[Tensor], all_reduce_sum: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """The targets of a step's micro-batches, as `teach` gave them in this process, made those of the global batch;
        of a task that `balances_targets`. Collective."""

    @abstractmethod
    def end_step(self, all_reduce_sum: Callable[[Tensor], Tensor]) -> None:
        """After the update, once `teach` has seen every micro-batch of this process."""


def start_teacher(state: State, task: Task) -> None:
    """Before the first step the teacher is the model; every average counts from there, so that all count the same."""
    if not isinstance(task, MeanTeacher) or state.ema is None:
        return
    for average in state.averages.values():
        if int(average.n_averaged) == 0:
            average.update_parameters(state.model)
    state.ema.module.eval()


def begin_step(state: State, steps: int) -> None:
    if isinstance(state.task, MeanTeacher):
        state.task.begin_step(state.step, steps)


def add_targets(
    state: State,
    prepare: Callable[[int], Batch],
    count: int,
    precision: Precision,
    all_reduce_sum: Callable[[Tensor], Tensor],
) -> Iterator[Batch]:
    """The micro-batches of a step, one after the other, with the targets of the teacher, of a task that has one.

    prepare(i): the micro-batch i of `count`, the same whenever it is asked. Where targets are balanced, all are
    computed before the first is given, and of several micro-batches each is prepared twice: targets are kept, images
    are not."""
    task = state.task
    if not isinstance(task, MeanTeacher):
        yield from map(prepare, range(count))
        return
    assert state.ema is not None, "the teacher is the average of optim.ema_decay"
    teacher, prepare = state.ema.module, lru_cache(maxsize=1)(prepare)

    def teach(i: int) -> Batch:
        with torch.no_grad(), precision.autocast():
            return task.teach(teacher, prepare(i))

    if not task.balances_targets:
        yield from map(teach, range(count))
        return
    targets = task.balance([teach(i).targets for i in range(count)], all_reduce_sum)
    for i, balanced in enumerate(targets):
        yield Batch(prepare(i).inputs, balanced)


def end_step(state: State, all_reduce_sum: Callable[[Tensor], Tensor]) -> None:
    if isinstance(state.task, MeanTeacher):
        state.task.end_step(all_reduce_sum)
