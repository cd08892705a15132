"""A learning-rate range test (Smith 2015, arXiv:1506.01186): the rate rises over real training steps, and no run is touched."""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vitrail.assembly.prepare import PreparedRun, Progress, prepare_run
from vitrail.assembly.run_directory import RunFolder
from vitrail.engine.signals import StopSignal
from vitrail.engine.train import NonFiniteError, train_steps
from vitrail.engine.world import World
from vitrail.errors import RunError, UsageError
from vitrail.recipe import Recipe
from vitrail.training import session
from vitrail.training.loop import loop_settings, remaining_batches
from vitrail.training.session import Session

MEMORY = 0.95  # of the smoothed loss: a loss counts half after 14 steps
BLOWN = 4.0  # times the lowest smoothed loss, and above the first: the rest of the test would show nothing
CLIMBED = 1.05  # times the lowest smoothed loss: the minimum lies inside the test
LEAST = 10  # steps


@dataclass(frozen=True)
class LrRange:
    """The rates of a test: rate(step) = low (high / low)^(step / (steps - 1))."""

    low: float = 1e-6
    high: float = 1.0
    steps: int = 200

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high:
            raise UsageError(
                f"the rate cannot rise from {self.low:g} to {self.high:g}",
                "--from 1e-6 --to 1: the smaller comes first",
            )
        if self.steps < LEAST:
            raise UsageError(f"{self.steps} steps show nothing", f"--steps {LEAST} at the least; 200 are usual")

    def lr_at(self, step: int) -> float:
        return self.low * (self.high / self.low) ** (step / (self.steps - 1))


class LrPoint(NamedTuple):
    """A step: the rate that it was done with, the loss that was found before it, and that loss smoothed, bias-corrected."""

    lr: float
    loss: float
    smooth: float


class LrAdvice(NamedTuple):
    """The rate to train with, and why. steepest, lowest: the rates where the smoothed loss falls fastest and where it is least."""

    lr: float
    reason: str
    steepest: float
    lowest: float


@dataclass(frozen=True)
class RangeTestResult:
    points: tuple[LrPoint, ...]
    advice: LrAdvice
    ended: str  # why the test ended before its last rate; "" where it did not


def range_test(
    recipe: Recipe, lrs: LrRange, world: World, progress: Progress | None = None
) -> tuple[RangeTestResult, PreparedRun]:
    """Trains a new model of a recipe through all rates. Errors: those of preparing a run; `RunError` where no rate lowers the loss."""
    optim = dataclasses.replace(
        recipe.optim, lr=lrs.high, warmup_steps=0, ema_decay=0.0, ema_decay_2=0.0, unfreeze_steps=()
    )
    plan = dataclasses.replace(recipe.train, steps=lrs.steps, epochs=None, eval_every=0, patience=0, start_size=None)
    prepared = prepare_run(dataclasses.replace(recipe, optim=optim, train=plan), world, progress)
    made = session.build(prepared.recipe, prepared.dataset, RunFolder(Path("runs/tune-lr")), world)  # makes no folder
    session.cache_latents(made, progress)
    made.load_report = session.load_initial_weights(made, prepared)
    losses: list[float] = []
    ended = ""
    try:
        for loss in test_steps(made, lrs):
            losses.append(loss)
            if has_diverged(losses):
                ended = f"the loss had grown to {BLOWN:g} times its lowest"
                break
    except NonFiniteError as error:
        ended = error.what
    points = tuple(
        LrPoint(lrs.lr_at(i), *pair) for i, pair in enumerate(zip(losses, smooth_losses(losses), strict=True))
    )
    return RangeTestResult(points, suggest_lr(points, ended), ended), prepared


def test_steps(made: Session, lrs: LrRange) -> Iterator[float]:
    """The loss of step after step, in the order of the rates. Errors: `NonFiniteError`."""
    settings = dataclasses.replace(
        loop_settings(made, StopSignal()), lr_at=lrs.lr_at, same_chance=made.bundle.task.is_generative
    )
    for report in train_steps(made.state, made.bundle.task, remaining_batches(made), settings):
        yield sum(float(term) for term in report.terms.values())


def smooth_losses(losses: list[float]) -> list[float]:
    """Exponential moving averages that are not drawn towards 0 at the beginning (Kingma & Ba 2014, section 3).

    >>> smoothed([2.0, 2.0])
    [2.0, 2.0]
    """
    found, mean = [], 0.0
    for i, loss in enumerate(losses):
        mean = MEMORY * mean + (1 - MEMORY) * loss
        found.append(round(mean / (1 - MEMORY ** (i + 1)), 12))
    return found


def has_diverged(losses: list[float]) -> bool:
    smooth = smooth_losses(losses)
    return smooth[-1] > BLOWN * min(smooth) and smooth[-1] > losses[0]


def suggest_lr(points: tuple[LrPoint, ...], ended: str) -> LrAdvice:
    """A tenth of the rate where the loss is least, if the loss rises again behind it; else the rate of its steepest fall, which is
    then all that the test has seen. Errors: `RunError`."""
    if len(points) < LEAST:
        raise RunError(f"the test ended after {len(points)} steps: {ended}", "begin with a lower rate: --from 1e-8")
    smooth, logs = np.array([p.smooth for p in points]), np.array([math.log10(p.lr) for p in points])
    least = int(smooth.argmin())
    slopes = np.gradient(smooth, logs)
    falling = slopes[: least + 1]
    if least == 0 or falling.min() >= 0:
        raise RunError(
            "the loss never fell in this test", "begin with a lower rate, as --from 1e-8, or take more --steps"
        )
    fastest = int(falling.argmin())
    steepest, lowest = points[fastest].lr, points[least].lr
    if ended or smooth[-1] > CLIMBED * smooth[least]:
        return LrAdvice(
            lowest / 10, f"a tenth of {lowest:.2g}, where the loss is least: with more it rises again", steepest, lowest
        )
    return LrAdvice(steepest, "where the loss falls fastest: it was still falling at the end, so more may do; a higher --to shows it",
                  steepest, lowest)  # fmt: skip
