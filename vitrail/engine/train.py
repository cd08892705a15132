"""The training loop, whole. It is a generator: it yields a report after every step, and whoever iterates prints, saves, stops."""

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
from vitrail.engine.freeze import UnfreezeStage, unfreeze_due
from vitrail.engine.nonfinite import NonFiniteFinding, find_nonfinite
from vitrail.engine.parallel import LossModule, sync_gradients, wrap_ddp
from vitrail.engine.precision import Precision
from vitrail.engine.state import State
from vitrail.engine.world import World
from vitrail.errors import RunError
from vitrail.types import Batch

SMALLEST_SCALE = 2.0**-14  # of fp16's gradients, which begins at 2^16 and is halved at every overflow


class StepReport(NamedTuple):
    """What a step did. Tensors stay where they are until someone wants to read them."""

    step: int  # steps done, this one included
    terms: dict[str, Tensor]  # the loss by its parts, mean over the processes
    grad_norm: Tensor
    lr: float
    wait_s: float  # time spent waiting for data
    step_s: float  # time of the whole step, the wait included
    stop: bool  # some process was asked to stop


class MicroBatch(NamedTuple):
    """Some of a process's share of the batch: as much as fits at once. `first`: its place in the global batch."""

    loaded: LoadedBatch
    first: int


class NonFiniteError(RunError):
    """The loss or a gradient is infinite or not a number; the weights are those of before the step. `keys`: the batch."""

    def __init__(self, what: str, keys: Keys, step: int, finding: NonFiniteFinding):
        super().__init__(what, "the weights are untouched")
        self.keys, self.step, self.finding = keys, step, finding


@dataclass(frozen=True)
class LoopSettings:
    """The settings of a loop: `rate(step)` is the learning rate that every group scales; `prepare(piece, step)` augments and
    mixes the images of a piece on the device; `unfreeze_stages` say what begins to learn when."""

    lr_at: Callable[[int], float]
    prepare: Callable[[MicroBatch, int], Batch]
    clip_grad: float
    seed: int
    precision: Precision
    world: World
    stop_requested: Callable[[], bool]
    unfreeze_stages: tuple[UnfreezeStage, ...] = ()
    same_chance: bool = (
        False  # every step draws the same: a denoiser's loss depends on its times and noise more than on the rate
    )


def train_steps(
    state: State, task: Task, batches: Iterable[list[MicroBatch]], loop: LoopSettings
) -> Iterator[StepReport]:
    """Steps through `batches`, each the pieces of one step. Where an item comes from is the caller's business;
    that it is the batch of `state.step` is its promise. Errors: `NonFiniteError`."""
    unfreeze_due(loop.unfreeze_stages, state.step)
    loss_of = wrap_ddp(LossModule(state.model, task), loop.world)
    start = time.perf_counter()
    for pieces in batches:
        ready = time.perf_counter()
        if unfreeze_due(loop.unfreeze_stages, state.step):
            del loss_of  # before another is made: each hangs its hooks on the parameters
            loss_of = wrap_ddp(LossModule(state.model, task), loop.world)
        terms, norm, stop = update_weights(state, loss_of, pieces, loop)
        task.after_step(state.model, state.step)
        now = time.perf_counter()
        rate = loop.lr_at(state.step - 1)
        yield StepReport(state.step, terms, norm, rate, ready - start, now - start, stop)
        start = time.perf_counter()


def update_weights(
    state: State, loss_of: nn.Module, micro_batches: list[MicroBatch], loop: LoopSettings
) -> tuple[dict[str, Tensor], Tensor, bool]:
    """One step of learning: gradients of every piece, one check, one update."""
    state.model.train()
    rate = loop.lr_at(state.step)
    for group in state.optimizer.param_groups:
        group["lr"] = rate * group["scale"]
    state.optimizer.zero_grad(set_to_none=True)
    terms = accumulate_gradients(state, loss_of, micro_batches, loop)
    if state.scaler:
        state.scaler.unscale_(state.optimizer)
    learned = [p for p in state.model.parameters() if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in learned if p.grad is not None])
    terms, stop = average_terms(terms, loop)
    if what := check_finite(terms, norm, state):
        raise nonfinite_error(what, terms, loss_of, micro_batches, state, loop)
    if loop.clip_grad:
        nn.utils.clip_grads_with_norm_(learned, loop.clip_grad, norm)
    if state.scaler:
        state.scaler.step(state.optimizer)  # leaves the step out where fp16 overflowed
        state.scaler.update()
    else:
        state.optimizer.step()
    for average in state.averages.values():
        average.update_parameters(state.model)
    state.step += 1
    return terms, norm, stop


def accumulate_gradients(
    state: State, loss_of: nn.Module, micro_batches: list[MicroBatch], loop: LoopSettings
) -> dict[str, Tensor]:
    """Adds up the gradients of the pieces; returns the loss terms of the whole share."""
    count = sum(len(p.loaded.images) for p in micro_batches)
    total: dict[str, Tensor] = {}
    for i, piece in enumerate(micro_batches):
        batch = loop.prepare(piece, state.step)
        torch.manual_seed(
            0 if loop.same_chance else derive_seed(loop.seed, state.step, piece.first)
        )  # dropout is a function of the step
        share = len(batch.inputs) / count
        with sync_gradients(loss_of, i == len(micro_batches) - 1):
            with loop.precision.autocast():
                terms = loss_of(batch)
            loss = torch.stack(list(terms.values())).sum() * share
            (state.scaler.scale(loss) if state.scaler else loss).backward()
        for name, term in terms.items():
            total[name] = total.get(name, torch.zeros_like(term.detach())) + term.detach() * share
    return total


def average_terms(terms: dict[str, Tensor], loop: LoopSettings) -> tuple[dict[str, Tensor], bool]:
    """The loss over all processes, and whether any of them was asked to stop: one small exchange a step."""
    if loop.world.size == 1:
        return terms, loop.stop_requested()
    row = torch.stack([*terms.values(), torch.tensor(float(loop.stop_requested()), device=loop.world.device)])
    row = loop.world.all_reduce_sum(row.float())
    return {name: value / loop.world.size for name, value in zip(terms, row, strict=False)}, bool(row[-1] > 0)


def check_finite(terms: dict[str, Tensor], norm: Tensor, state: State) -> str:
    """What is not finite, "" where all is: then no update is made. With fp16 an overflowing gradient is routine, and the scaler skips
    it; where no scale is small enough it is no overflow."""
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
    """The error of a step that came to nothing, with where it came from: everything it takes can be computed once more."""
    plain = loss_of.module if isinstance(loss_of, DistributedDataParallel) else loss_of
    batches = [loop.prepare(piece, state.step) for piece in micro_batches]

    def again(i: int) -> None:
        torch.manual_seed(derive_seed(loop.seed, state.step, micro_batches[i].first))
        with loop.precision.autocast():
            plain(batches[i])

    finding = find_nonfinite(
        plain, batches, [name for name, value in terms.items() if not torch.isfinite(value)], again
    )
    keys = Keys(*(np.concatenate([getattr(p.loaded.keys, part) for p in micro_batches]) for part in ("epochs", "ids")))
    return NonFiniteError(f"{what} is not finite at step {state.step + 1}", keys, state.step + 1, finding)
