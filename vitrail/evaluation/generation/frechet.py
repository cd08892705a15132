"""The Fréchet distance of a denoiser's pictures at every evaluation, by the features of a classifier that `machine.judge` names.

A few pictures made in few steps: less than `vitrail eval --features` makes, so its numbers are others. Every evaluation of a run makes as
many, from the same noise, and compares them with the same real ones, so that the numbers of one run can be compared.
"""

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from vitrail.assembly.model import Described
from vitrail.data.dataset import Dataset
from vitrail.data.splits import held_out
from vitrail.engine.world import World
from vitrail.errors import UsageError
from vitrail.evaluation.features import of_part, of_pictures
from vitrail.inference.predictor import Predictor, load
from vitrail.inference.sample import Wish, null_label, pictures, usual
from vitrail.metrics.generation import frechet
from vitrail.recipe import Recipe
from vitrail.tasks.diffusion import Sampling

STEPS = 10
STEP_COST = 3  # a picture of a training step costs three times what it costs to ask the network: there and back
LEAST, MOST = 64, 1000  # pictures
SHARE = 0.05  # of the network's work in a run that all evaluations together may take, where that allows `LEAST`


def check(recipe: Recipe, task: Any, device: str = "cpu") -> Predictor | None:
    """The classifier; None where none is named. Errors: `UsageError`, `CheckpointError`."""
    name = recipe.machine.judge
    if not name:
        return None
    if not task.is_generative:
        raise UsageError(f"machine.judge judges made pictures, and {recipe.model.name} makes none", "leave --machine.judge out")
    judge = load(name, device)
    if not judge.task.is_classifier:
        raise UsageError(f"{name} is no classifier", "--machine.judge names a run that tells classes")
    if judge.preprocess.channels != recipe.input.channels and recipe.input.channels not in (1, 3):
        raise UsageError(f"{name} takes pictures of {judge.preprocess.channels} channels", "a classifier of such pictures")
    return judge


def count(recipe: Recipe) -> int:
    """Pictures at every evaluation: the same through a run, as many as it has time for."""
    p = recipe.plan
    steps, batch = p.steps or 0, p.batch or 1
    times = (steps // p.eval_every if p.eval_every else 0) + 1
    return max(LEAST, min(MOST, int(SHARE * STEP_COST * steps * batch / (times * STEPS * 2))))


class Frechet:
    """Measures, in the process that writes. kept: the folder for the features of the real pictures."""

    def __init__(self, recipe: Recipe, task: Any, dataset: Dataset, kept: Path, world: World):
        self.recipe, self.task, self.dataset, self.kept, self.world = recipe, task, dataset, kept, world

    @cached_property
    def judge(self) -> Predictor | None:
        return check(self.recipe, self.task, str(self.world.device))

    @cached_property
    def real(self) -> Tensor:
        """Of the part that judges while a run goes on, [N D]."""
        assert self.judge is not None
        return of_part(self.judge, self.dataset, held_out(self.dataset, final=False), self.kept, self.world)[0].double()

    def measured(self, described: Described) -> dict[str, float]:
        """The distance by its name; nothing where no classifier is named or another process measures."""
        if not self.world.first or self.judge is None:
            return {}
        many, null = count(self.recipe), null_label(described)
        labels = tuple(i % null if null else 0 for i in range(many))
        made = pictures(described, Wish(labels, tuple(range(many))), quick(described, STEPS))
        _, features = of_pictures(self.judge, made, labels, self.world)
        return {"frechet": frechet(self.real, features.double())}


def quick(described: Described, steps: int) -> Sampling:
    """How pictures are made in few steps that each ask the network once and have no chance in them."""
    sampler: Literal["ddim", "euler"] = "ddim" if described.task.config.objective == "gaussian" else "euler"
    return dataclasses.replace(usual(described, steps=steps), sampler=sampler)
