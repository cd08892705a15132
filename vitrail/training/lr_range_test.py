"""A learning-rate range test (Smith 2015, arXiv:1506.01186): the learning rate rises over real training steps; no run
is written."""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vitrail.assembly.prepare import PreparedRun, Progress, prepare_run
from vitrail.assembly.run_directory import RunFolder
from vitrail.engine.processes.world import World
from vitrail.engine.signals import StopSignal
from vitrail.engine.teacher import MeanTeacher
from vitrail.engine.train import NonFiniteError, train_steps
from vitrail.errors import RunError, UsageError
from vitrail.recipe import Recipe
from vitrail.training.build import build_session
from vitrail.training.create import cache_latents
from vitrail.training.session import Session
from vitrail.training.steps import loop_settings, remaining_batches
from vitrail.training.transfer.initial_weights import load_initial_weights

MEMORY = 0.95  # of the smoothed loss: a loss counts half after 14 steps
DIVERGED = 4.0  # times the lowest smoothed loss, and above the first: the test ends
RISEN = 1.05  # times the lowest smoothed loss: the minimum is inside the test
LEAST = 10  # steps


@dataclass(frozen=True)
class LrRange:
    """The learning rates of a test: lr(step) = low (high / low)^(step / (steps - 1))."""

    low: float = 1e-6
    high: float = 1.0
    steps: int = 200

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high:
            raise UsageError(
                f"the learning rate cannot rise from {self.low:g} to {self.high:g}",
                "--from 1e-6 --to 1: the smaller comes first",
            )
        if self.steps < LEAST:
            raise UsageError(
                f"{self.steps} steps are too few for a range test", f"--steps {LEAST} or more; 200 are usual"
            )

    def lr_at(self, step: int) -> float:
        return self.low * (self.high / self.low) ** (step / (self.steps - 1))


class LrPoint(NamedTuple):
    """A step: its learning rate, the loss before its update, and that loss smoothed, bias-corrected."""

    lr: float
    loss: float
    smooth: float


class LrAdvice(NamedTuple):
    """The suggested learning rate and the reason. steepest, lowest: where the smoothed loss falls fastest and where it
    is least."""

    lr: float
    reason: str
    steepest: float
    lowest: float


@dataclass(frozen=True)
class RangeTestResult:
    points: tuple[LrPoint, ...]
    advice: LrAdvice
    ended: str  # why the test ended before its last step; "" where it did not


def range_test(
    recipe: Recipe, lrs: LrRange, world: World, progress: Progress | None = None
) -> tuple[RangeTestResult, PreparedRun]:
    """Trains a new model of a recipe through all learning rates. Errors: those of preparing a run; `RunError` where the
    loss never falls."""
    optim = dataclasses.replace(recipe.optim, lr=lrs.high, warmup_steps=0, ema_decay_2=0.0, unfreeze_steps=())
    train = dataclasses.replace(recipe.train, steps=lrs.steps, epochs=None, eval_every=0, patience=0, start_size=None)
    prepared = prepare_run(dataclasses.replace(recipe, optim=optim, train=train), world, progress)
    task, dataset = prepared.recipe.task, prepared.dataset
    if not isinstance(prepared.names.task(task, len(dataset.classes), dataset.multi_label), MeanTeacher):
        optim = dataclasses.replace(prepared.recipe.optim, ema_decay=0.0)  # nobody asks for the average
        prepared = dataclasses.replace(prepared, recipe=dataclasses.replace(prepared.recipe, optim=optim))
    session = build_session(prepared.recipe, prepared.dataset, RunFolder(Path("runs/tune-lr")), world)  # no folder
    cache_latents(session, progress)
    load_initial_weights(session, prepared.origin)
    losses: list[float] = []
    ended = ""
    try:
        for loss in step_losses(session, lrs):
            losses.append(loss)
            if has_diverged(losses):
                ended = f"the loss grew to {DIVERGED:g} times its lowest"
                break
    except NonFiniteError as error:
        ended = error.what
    points = tuple(
        LrPoint(lrs.lr_at(i), *pair) for i, pair in enumerate(zip(losses, smooth_losses(losses), strict=True))
    )
    return RangeTestResult(points, suggest_lr(points, ended), ended), prepared


def step_losses(session: Session, lrs: LrRange) -> Iterator[float]:
    """The loss of step after step, in the order of the learning rates. Errors: `NonFiniteError`."""
    settings = dataclasses.replace(
        loop_settings(session, StopSignal()), lr_at=lrs.lr_at, same_chance=session.bundle.task.is_generative
    )
    for report in train_steps(session.state, session.bundle.task, remaining_batches(session), settings):
        yield sum(float(term) for term in report.terms.values())


def smooth_losses(losses: list[float]) -> list[float]:
    """Exponential moving averages, bias-corrected (Kingma & Ba 2014, section 3).

    >>> smooth_losses([2.0, 2.0])
    [2.0, 2.0]
    """
    averages, mean = [], 0.0
    for i, loss in enumerate(losses):
        mean = MEMORY * mean + (1 - MEMORY) * loss
        averages.append(round(mean / (1 - MEMORY ** (i + 1)), 12))
    return averages


def has_diverged(losses: list[float]) -> bool:
    smooth = smooth_losses(losses)
    return smooth[-1] > DIVERGED * min(smooth) and smooth[-1] > losses[0]


def suggest_lr(points: tuple[LrPoint, ...], ended: str) -> LrAdvice:
    """A tenth of the learning rate where the loss is least, if the loss rises again after it; else that of its steepest
    fall. Errors: `RunError`."""
    if len(points) < LEAST:
        raise RunError(
            f"the test ended after {len(points)} steps: {ended}", "start with a lower learning rate: --from 1e-8"
        )
    smooth, logs = np.array([p.smooth for p in points]), np.array([math.log10(p.lr) for p in points])
    least = int(smooth.argmin())
    slopes = np.gradient(smooth, logs)
    falling = slopes[: least + 1]
    if least == 0 or falling.min() >= 0:
        raise RunError(
            "the loss never fell in this test",
            "start with a lower learning rate, such as --from 1e-8, or use more --steps",
        )
    fastest = int(falling.argmin())
    steepest, lowest = points[fastest].lr, points[least].lr
    if ended or smooth[-1] > RISEN * smooth[least]:
        return LrAdvice(
            lowest / 10, f"a tenth of {lowest:.2g}, where the loss is least before it rises again", steepest, lowest
        )
    reason = "where the loss falls fastest; it was still falling at the end: a higher --to shows whether more is better"
    return LrAdvice(steepest, reason, steepest, lowest)
