"""The training loop, a generator: it yields a report after every step, and its caller prints, saves and stops."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vitrail.contracts import Task
from vitrail.data.loader import LoadedBatch
from vitrail.data.sampling import Keys, derive_seed
from vitrail.engine import teacher
from vitrail.engine.freeze import UnfreezeStage, set_train_mode, unfreeze_due
from vitrail.engine.joint import JointOutputs, JointTask, accumulate_joint
from vitrail.engine.memory import is_out_of_memory, release_memory, running_statistics
from vitrail.engine.nonfinite import NonFiniteFinding, find_nonfinite
from vitrail.engine.precision import Precision
from vitrail.engine.processes.parallel import LossModule, sync_gradients, wrap_ddp
from vitrail.engine.processes.tensors import whole_tensor
from vitrail.engine.processes.world import World
from vitrail.engine.state import State
from vitrail.errors import RunError
from vitrail.types import Batch

SMALLEST_SCALE = 2.0**-14  # of fp16's gradients, which begins at 2^16 and is halved at every overflow


class StepReport(NamedTuple):
    """The results of a step. Tensors stay on the device until they are read."""

    step: int  # steps done, including this one
    terms: dict[str, Tensor]  # the terms of the loss, mean over the processes
    grad_norm: Tensor
    lr: float
    wait_s: float  # time spent waiting for data
    step_s: float  # time of the whole step, including the wait
    stop: bool  # some process was asked to stop


class MicroBatch(NamedTuple):
    """Some of a process's images of the batch, as many as fit at once. `first`: the index of its first image in the
    global batch."""

    loaded: LoadedBatch
    first: int


class NonFiniteError(RunError):
    """The loss or a gradient is infinite or not a number; the weights are those before the step. `keys`: the batch."""

    def __init__(self, what: str, keys: Keys, step: int, finding: NonFiniteFinding):
        super().__init__(what, "the weights are unchanged")
        self.keys, self.step, self.finding = keys, step, finding


@dataclass(frozen=True)
class LoopSettings:
    """The settings of a loop: `lr_at(step)` is the learning rate, scaled by every group; `prepare(micro_batch, step)`
    augments and mixes the images on the device; `unfreeze_stages`: the parameters to unfreeze, by step."""

    lr_at: Callable[[int], float]
    prepare: Callable[[MicroBatch, int], Batch]
    clip_grad: float
    seed: int
    precision: Precision
    world: World
    stop_requested: Callable[[], bool]
    unfreeze_stages: tuple[UnfreezeStage, ...] = ()
    shrink: Callable[[list[MicroBatch]], list[MicroBatch]] | None = None  # smaller ones, where memory does not suffice
    model: nn.Module | None = None  # in place of the state's, with its parameters: a head on cached features
    steps: int = 1  # of the whole run
    same_chance: bool = False  # the same random numbers in every step, for a range test of a denoiser's loss


def train_steps(
    state: State, task: Task, batches: Iterable[list[MicroBatch]], loop: LoopSettings
) -> Iterator[StepReport]:
    """Trains on `batches`, each the micro-batches of one step, beginning with the batch of `state.step`. Errors:
    `NonFiniteError`."""
    unfreeze_due(loop.unfreeze_stages, state.step)
    teacher.start_teacher(state, task)
    loss_of = loss_module(state, task, loop)
    start = time.perf_counter()
    for micro_batches in batches:
        ready = time.perf_counter()
        if unfreeze_due(loop.unfreeze_stages, state.step):
            del loss_of  # before another is created: each adds hooks to the parameters
            loss_of = loss_module(state, task, loop)
        with loop.world.in_step(state.step):
            terms, norm, stop = update_weights(state, loss_of, micro_batches, loop)
        task.after_step(state.model, state.step)
        now = time.perf_counter()
        lr = loop.lr_at(state.step - 1)
        yield StepReport(state.step, terms, norm, lr, ready - start, now - start, stop)
        start = time.perf_counter()


def loss_module(state: State, task: Task, loop: LoopSettings) -> nn.Module:
    """The loss for a training step on any number of processes."""
    if state.sharded is not None:
        return state.sharded.loss_of
    return wrap_ddp(LossModule(loop.model or state.model, task), loop.world)


def update_weights(
    state: State, loss_of: nn.Module, micro_batches: list[MicroBatch], loop: LoopSettings
) -> tuple[dict[str, Tensor], Tensor, bool]:
    """One training step: gradients of every micro-batch, one check, one update."""
    set_train_mode(state.model)
    lr = loop.lr_at(state.step)
    for group in state.optimizer.param_groups:
        group["lr"] = lr * group["scale"]
    state.optimizer.zero_grad(set_to_none=True)
    terms, micro_batches = fit_gradients(state, loss_of, micro_batches, loop)
    if state.scaler:
        state.scaler.unscale_(state.optimizer)
    trained = [p for p in state.model.parameters() if p.grad is not None]
    norm = whole_tensor(nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None]))
    terms, stop = average_terms(terms, loop)
    if what := check_finite(terms, norm, state):
        raise nonfinite_error(what, terms, loss_of, micro_batches, state, loop)
    if loop.clip_grad:
        nn.utils.clip_grads_with_norm_(trained, loop.clip_grad, norm)
    state.wait_for_copy()
    if state.scaler:
        state.scaler.step(state.optimizer)  # skips the step where fp16 overflowed
        state.scaler.update()
    else:
        state.optimizer.step()
    for average in state.averages.values():
        average.update_parameters(state.model)
    teacher.end_step(state, loop.world.all_reduce_sum)
    state.step += 1
    return terms, norm, stop


def fit_gradients(
    state: State, loss_of: nn.Module, micro_batches: list[MicroBatch], loop: LoopSettings
) -> tuple[dict[str, Tensor], list[MicroBatch]]:
    """`accumulate_gradients`, in smaller micro-batches where memory does not suffice: the loss terms, and the
    micro-batches that fitted. Errors: those of `loop.shrink`."""
    current = running_statistics(state.model)
    before = [values.clone() for values in current]
    while True:
        try:
            return accumulate_gradients(state, loss_of, micro_batches, loop), micro_batches
        except (RuntimeError, MemoryError) as error:
            if loop.shrink is None or not is_out_of_memory(error):
                raise
        # not inside `except`: an error holds on to the tensors of its step
        state.optimizer.zero_grad(set_to_none=True)
        for values, old in zip(current, before, strict=True):
            values.copy_(old)
        release_memory(loop.world.device)
        micro_batches = loop.shrink(micro_batches)


def accumulate_gradients(
    state: State, loss_of: nn.Module, micro_batches: list[MicroBatch], loop: LoopSettings
) -> dict[str, Tensor]:
    """Accumulates the gradients of the micro-batches; returns the loss terms over all of them."""
    if isinstance(state.task, JointTask):
        return joint_gradients(state, state.task, loss_of, micro_batches, loop)
    count = sum(p.loaded.size for p in micro_batches)
    total: dict[str, Tensor] = {}
    teacher.begin_step(state, loop.steps)
    batches = prepared_batches(state, micro_batches, loop)
    for i, (micro_batch, batch) in enumerate(zip(micro_batches, batches, strict=True)):
        # dropout is a function of the step
        torch.manual_seed(0 if loop.same_chance else derive_seed(loop.seed, state.step, micro_batch.first))
        fraction = micro_batch.loaded.size / count
        with sync_gradients(loss_of, i == len(micro_batches) - 1):
            with loop.precision.autocast():
                terms = loss_of(batch)
            loss = torch.stack(list(terms.values())).sum() * fraction
            (state.scaler.scale(loss) if state.scaler else loss).backward()
        for name, term in terms.items():
            total[name] = total.get(name, torch.zeros_like(term.detach())) + term.detach() * fraction
    return total


def prepared_batches(state: State, micro_batches: list[MicroBatch], loop: LoopSettings) -> Iterator[Batch]:
    """The micro-batches of a step as its loss takes them."""
    return teacher.add_targets(
        state,
        lambda i: loop.prepare(micro_batches[i], state.step),
        len(micro_batches),
        loop.precision,
        loop.world.all_reduce_sum,
    )


def joint_gradients(
    state: State, task: JointTask, loss_of: nn.Module, micro_batches: list[MicroBatch], loop: LoopSettings
) -> dict[str, Tensor]:
    """The same of a loss that compares the images of all micro-batches."""
    statistics, last = running_statistics(state.model), len(micro_batches) - 1

    def compute(i: int, with_gradient: bool) -> JointOutputs:
        batch = loop.prepare(micro_batches[i], state.step)
        torch.manual_seed(0 if loop.same_chance else derive_seed(loop.seed, state.step, micro_batches[i].first))
        before = [] if with_gradient else [values.clone() for values in statistics]
        with torch.set_grad_enabled(with_gradient), sync_gradients(loss_of, i == last), loop.precision.autocast():
            outputs: JointOutputs = loss_of(batch, outputs=True)
        for values, old in zip(statistics, before, strict=False):  # those of a batch are counted once
            values.copy_(old)
        return outputs

    def backward(value: Tensor, i: int | None) -> None:
        if i is None:
            (state.scaler.scale(value) if state.scaler else value).backward()
        else:
            with sync_gradients(loss_of, i == last):
                value.backward()

    counts = [one.loaded.size for one in micro_batches]
    return accumulate_joint(task, compute, counts, loop.world, backward)


def average_terms(terms: dict[str, Tensor], loop: LoopSettings) -> tuple[dict[str, Tensor], bool]:
    """The loss over all processes, and whether any of them was asked to stop: one small all-reduce a step."""
    if loop.world.size == 1:
        return terms, loop.stop_requested()
    row = torch.stack([*terms.values(), torch.tensor(float(loop.stop_requested()), device=loop.world.device)])
    row = loop.world.all_reduce_sum(row.float())
    return {name: value / loop.world.size for name, value in zip(terms, row, strict=False)}, bool(row[-1] > 0)


def check_finite(terms: dict[str, Tensor], norm: Tensor, state: State) -> str:
    """The loss or gradient that is not finite, "" where all are. With fp16 an overflow of the gradient is routine, and
    the scaler skips it; where the scale is minimal it is no overflow."""
    bad = [name for name, value in terms.items() if not torch.isfinite(value)]
    if bad:
        return f"the loss ({', '.join(f'{n} = {float(terms[n])}' for n in bad)})"
    overflow = state.scaler is not None and state.scaler.get_scale() > SMALLEST_SCALE
    return "" if torch.isfinite(norm) or overflow else f"the gradient (norm {float(norm)})"


def nonfinite_error(
    what: str,
    terms: dict[str, Tensor],
    loss_of: nn.Module,
    micro_batches: list[MicroBatch],
    state: State,
    loop: LoopSettings,
) -> NonFiniteError:
    """The error of a failed step, with its cause: every input of the step can be recomputed."""
    module = loss_of.module if isinstance(loss_of, DistributedDataParallel) else loss_of
    if state.sharded is not None and isinstance(module, LossModule):  # one process may find it where others do not look
        module = LossModule(state.sharded.gather(state.model), module.task)
    batches = list(prepared_batches(state, micro_batches, loop))

    def again(i: int) -> None:
        torch.manual_seed(derive_seed(loop.seed, state.step, micro_batches[i].first))
        with loop.precision.autocast():
            module(batches[i])

    finding = find_nonfinite(
        module, batches, [name for name, value in terms.items() if not torch.isfinite(value)], again
    )
    keys = Keys(*(np.concatenate([getattr(p.loaded.keys, part) for p in micro_batches]) for part in ("epochs", "ids")))
    return NonFiniteError(f"{what} is not finite at step {state.step + 1}", keys, state.step + 1, finding)
