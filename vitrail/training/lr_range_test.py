"""A learning-rate range test (Smith 2015, arXiv:1506.01186): the rate rises over real training steps, and no run is touched."""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vitrail.assembly.prepare import Prepared, Progress, prepare
from vitrail.assembly.run_directory import RunFolder
from vitrail.engine.signals import Stop
from vitrail.engine.train import NotFinite, train
from vitrail.engine.world import World
from vitrail.errors import RunError, UsageError
from vitrail.recipe import Recipe
from vitrail.training import session
from vitrail.training.loop import batches, loop
from vitrail.training.session import Session

MEMORY = 0.95  # of the smoothed loss: a loss counts half after 14 steps
BLOWN = 4.0  # times the lowest smoothed loss, and above the first: the rest of the test would show nothing
CLIMBED = 1.05  # times the lowest smoothed loss: the minimum lies inside the test
LEAST = 10  # steps


@dataclass(frozen=True)
class Range:
    """The rates of a test: rate(step) = low (high / low)^(step / (steps - 1))."""

    low: float = 1e-6
    high: float = 1.0
    steps: int = 200

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high:
            raise UsageError(f"the rate cannot rise from {self.low:g} to {self.high:g}", "--from 1e-6 --to 1: the smaller comes first")
        if self.steps < LEAST:
            raise UsageError(f"{self.steps} steps show nothing", f"--steps {LEAST} at the least; 200 are usual")

    def rate(self, step: int) -> float:
        return self.low * (self.high / self.low) ** (step / (self.steps - 1))


class Point(NamedTuple):
    """A step: the rate that it was done with, the loss that was found before it, and that loss smoothed, bias-corrected."""

    rate: float
    loss: float
    smooth: float


class Advice(NamedTuple):
    """The rate to train with, and why. steepest, lowest: the rates where the smoothed loss falls fastest and where it is least."""

    rate: float
    why: str
    steepest: float
    lowest: float


@dataclass(frozen=True)
class Tested:
    points: tuple[Point, ...]
    advice: Advice
    ended: str  # why the test ended before its last rate; "" where it did not


def range_test(recipe: Recipe, rates: Range, world: World, progress: Progress | None = None) -> tuple[Tested, Prepared]:
    """Trains a new model of a recipe through all rates. Errors: those of preparing a run; `RunError` where no rate lowers the loss."""
    optim = dataclasses.replace(recipe.optim, lr=rates.high, warmup=0, ema=0.0, ema2=0.0, unfreeze=())
    plan = dataclasses.replace(recipe.plan, steps=rates.steps, epochs=None, eval_every=0, patience=0, grow_from=None)
    prepared = prepare(dataclasses.replace(recipe, optim=optim, plan=plan), world, progress)
    made = session.build(prepared.recipe, prepared.dataset, RunFolder(Path("runs/tune-lr")), world)  # makes no folder
    session.lay_up(made, progress)
    made.taken = session.begin(made, prepared)
    losses: list[float] = []
    ended = ""
    try:
        for loss in steps(made, rates):
            losses.append(loss)
            if blown(losses):
                ended = f"the loss had grown to {BLOWN:g} times its lowest"
                break
    except NotFinite as error:
        ended = error.what
    points = tuple(Point(rates.rate(i), *pair) for i, pair in enumerate(zip(losses, smoothed(losses), strict=True)))
    return Tested(points, advice(points, ended), ended), prepared


def steps(made: Session, rates: Range) -> Iterator[float]:
    """The loss of step after step, in the order of the rates. Errors: `NotFinite`."""
    settings = dataclasses.replace(loop(made, Stop()), rate=rates.rate, same_chance=made.described.task.is_generative)
    for report in train(made.state, made.described.task, batches(made), settings):
        yield sum(float(term) for term in report.terms.values())


def smoothed(losses: list[float]) -> list[float]:
    """Exponential moving averages that are not drawn towards 0 at the beginning (Kingma & Ba 2014, section 3).

    >>> smoothed([2.0, 2.0])
    [2.0, 2.0]
    """
    found, mean = [], 0.0
    for i, loss in enumerate(losses):
        mean = MEMORY * mean + (1 - MEMORY) * loss
        found.append(round(mean / (1 - MEMORY ** (i + 1)), 12))
    return found


def blown(losses: list[float]) -> bool:
    smooth = smoothed(losses)
    return smooth[-1] > BLOWN * min(smooth) and smooth[-1] > losses[0]


def advice(points: tuple[Point, ...], ended: str) -> Advice:
    """A tenth of the rate where the loss is least, if the loss rises again behind it; else the rate of its steepest fall, which is
    then all that the test has seen. Errors: `RunError`."""
    if len(points) < LEAST:
        raise RunError(f"the test ended after {len(points)} steps: {ended}", "begin with a lower rate: --from 1e-8")
    smooth, logs = np.array([p.smooth for p in points]), np.array([math.log10(p.rate) for p in points])
    least = int(smooth.argmin())
    slopes = np.gradient(smooth, logs)
    falling = slopes[: least + 1]
    if least == 0 or falling.min() >= 0:
        raise RunError("the loss never fell in this test", "begin with a lower rate, as --from 1e-8, or take more --steps")
    fastest = int(falling.argmin())
    steepest, lowest = points[fastest].rate, points[least].rate
    if ended or smooth[-1] > CLIMBED * smooth[least]:
        return Advice(lowest / 10, f"a tenth of {lowest:.2g}, where the loss is least: with more it rises again", steepest, lowest)
    return Advice(steepest, "where the loss falls fastest: it was still falling at the end, so more may do; a higher --to shows it",
                  steepest, lowest)  # fmt: skip
