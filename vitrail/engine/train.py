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
from vitrail.data.loader import Loaded
from vitrail.data.sampling import Keys, seed_of
from vitrail.engine.freeze import Wave, thaw
from vitrail.engine.nonfinite import Finding, examine
from vitrail.engine.parallel import LossOf, together, wrapped
from vitrail.engine.precision import Precision
from vitrail.engine.state import State
from vitrail.engine.world import World
from vitrail.errors import RunError
from vitrail.types import Batch

SMALLEST_SCALE = 2.0**-14  # of fp16's gradients, which begins at 2^16 and is halved at every overflow


class Report(NamedTuple):
    """What a step did. Tensors stay where they are until someone wants to read them."""

    step: int  # steps done, this one included
    terms: dict[str, Tensor]  # the loss by its parts, mean over the processes
    grad_norm: Tensor
    rate: float
    wait_s: float  # time spent waiting for data
    step_s: float  # time of the whole step, the wait included
    stop: bool  # some process was asked to stop


class Piece(NamedTuple):
    """Some of a process's share of the batch: as much as fits at once. `first`: its place in the global batch."""

    loaded: Loaded
    first: int


class NotFinite(RunError):
    """The loss or a gradient is infinite or not a number; the weights are those of before the step. `keys`: the batch."""

    def __init__(self, what: str, keys: Keys, step: int, finding: Finding):
        super().__init__(what, "the weights are untouched")
        self.keys, self.step, self.finding = keys, step, finding


@dataclass(frozen=True)
class Loop:
    """The settings of a loop: `rate(step)` is the learning rate that every group scales; `prepare(piece, step)` augments and
    mixes the pictures of a piece on the device; `waves` say what begins to learn when."""

    rate: Callable[[int], float]
    prepare: Callable[[Piece, int], Batch]
    clip: float
    seed: int
    precision: Precision
    world: World
    stopping: Callable[[], bool]
    waves: tuple[Wave, ...] = ()
    same_chance: bool = False  # every step draws the same: a denoiser's loss depends on its times and noise more than on the rate


def train(state: State, task: Task, batches: Iterable[list[Piece]], loop: Loop) -> Iterator[Report]:
    """Steps through `batches`, each the pieces of one step. Where an item comes from is the caller's business;
    that it is the batch of `state.step` is its promise. Errors: `NotFinite`."""
    thaw(loop.waves, state.step)
    loss_of = wrapped(LossOf(state.model, task), loop.world)
    start = time.perf_counter()
    for pieces in batches:
        ready = time.perf_counter()
        if thaw(loop.waves, state.step):
            del loss_of  # before another is made: each hangs its hooks on the parameters
            loss_of = wrapped(LossOf(state.model, task), loop.world)
        terms, norm, stop = update(state, loss_of, pieces, loop)
        task.after_step(state.model, state.step)
        now = time.perf_counter()
        rate = loop.rate(state.step - 1)
        yield Report(state.step, terms, norm, rate, ready - start, now - start, stop)
        start = time.perf_counter()


def update(state: State, loss_of: nn.Module, pieces: list[Piece], loop: Loop) -> tuple[dict[str, Tensor], Tensor, bool]:
    """One step of learning: gradients of every piece, one check, one update."""
    state.model.train()
    rate = loop.rate(state.step)
    for group in state.optimizer.param_groups:
        group["lr"] = rate * group["scale"]
    state.optimizer.zero_grad(set_to_none=True)
    terms = gradients(state, loss_of, pieces, loop)
    if state.scaler:
        state.scaler.unscale_(state.optimizer)
    learned = [p for p in state.model.parameters() if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in learned if p.grad is not None])
    terms, stop = agree(terms, loop)
    if what := check(terms, norm, state):
        raise found_bad(what, terms, loss_of, pieces, state, loop)
    if loop.clip:
        nn.utils.clip_grads_with_norm_(learned, loop.clip, norm)
    if state.scaler:
        state.scaler.step(state.optimizer)  # leaves the step out where fp16 overflowed
        state.scaler.update()
    else:
        state.optimizer.step()
    for average in state.averages.values():
        average.update_parameters(state.model)
    state.step += 1
    return terms, norm, stop


def gradients(state: State, loss_of: nn.Module, pieces: list[Piece], loop: Loop) -> dict[str, Tensor]:
    """Adds up the gradients of the pieces; returns the loss terms of the whole share."""
    count = sum(len(p.loaded.pictures) for p in pieces)
    total: dict[str, Tensor] = {}
    for i, piece in enumerate(pieces):
        batch = loop.prepare(piece, state.step)
        torch.manual_seed(0 if loop.same_chance else seed_of(loop.seed, state.step, piece.first))  # dropout is a function of the step
        share = len(batch.inputs) / count
        with together(loss_of, i == len(pieces) - 1):
            with loop.precision.autocast():
                terms = loss_of(batch)
            loss = torch.stack(list(terms.values())).sum() * share
            (state.scaler.scale(loss) if state.scaler else loss).backward()
        for name, term in terms.items():
            total[name] = total.get(name, torch.zeros_like(term.detach())) + term.detach() * share
    return total


def agree(terms: dict[str, Tensor], loop: Loop) -> tuple[dict[str, Tensor], bool]:
    """The loss over all processes, and whether any of them was asked to stop: one small exchange a step."""
    if loop.world.size == 1:
        return terms, loop.stopping()
    row = torch.stack([*terms.values(), torch.tensor(float(loop.stopping()), device=loop.world.device)])
    row = loop.world.total(row.float())
    return {name: value / loop.world.size for name, value in zip(terms, row, strict=False)}, bool(row[-1] > 0)


def check(terms: dict[str, Tensor], norm: Tensor, state: State) -> str:
    """What is not finite, "" where all is: then no update is made. With fp16 an overflowing gradient is routine, and the scaler skips
    it; where no scale is small enough it is no overflow."""
    bad = [name for name, value in terms.items() if not torch.isfinite(value)]
    if bad:
        return f"the loss ({', '.join(f'{n} = {float(terms[n])}' for n in bad)})"
    overflow = state.scaler is not None and state.scaler.get_scale() > SMALLEST_SCALE
    return "" if torch.isfinite(norm) or overflow else f"the gradient (norm {float(norm)})"


def found_bad(what: str, terms: dict[str, Tensor], loss_of: nn.Module, pieces: list[Piece], state: State, loop: Loop) -> NotFinite:
    """The error of a step that came to nothing, with where it came from: everything it takes can be computed once more."""
    plain = loss_of.module if isinstance(loss_of, DistributedDataParallel) else loss_of
    batches = [loop.prepare(piece, state.step) for piece in pieces]

    def again(i: int) -> None:
        torch.manual_seed(seed_of(loop.seed, state.step, pieces[i].first))
        with loop.precision.autocast():
            plain(batches[i])

    finding = examine(plain, batches, [name for name, value in terms.items() if not torch.isfinite(value)], again)
    keys = Keys(*(np.concatenate([getattr(p.loaded.keys, part) for p in pieces]) for part in ("epochs", "ids")))
    return NotFinite(f"{what} is not finite at step {state.step + 1}", keys, state.step + 1, finding)
