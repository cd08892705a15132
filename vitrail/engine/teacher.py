"""Tasks whose teacher is an average of the model's own weights, a mean teacher (Tarvainen and Valpola 2017,
arxiv.org/abs/1703.01780).

The teacher is the average that a run has anyway (`optim.ema_decay`): it is in every checkpoint, is divided among
processes as the model is, and is what evaluations and the finished weights are of. What is different here: it begins as
a copy of the initial weights, its decay is the task's, and it is run in every step.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from vitrail.contracts import Task
from vitrail.engine.precision import Precision
from vitrail.engine.state import State
from vitrail.types import Batch


class MeanTeacher(ABC):
    """What such a task has, beside what every task has."""

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


def add_targets(state: State, batch: Batch, precision: Precision) -> Batch:
    """The micro-batch with the targets of the teacher, of a task that has one."""
    if not isinstance(state.task, MeanTeacher):
        return batch
    assert state.ema is not None, "the teacher is the average of optim.ema_decay"
    with torch.no_grad(), precision.autocast():
        return state.task.teach(state.ema.module, batch)


def end_step(state: State, all_reduce_sum: Callable[[Tensor], Tensor]) -> None:
    if isinstance(state.task, MeanTeacher):
        state.task.end_step(all_reduce_sum)
