"""Recipe -> everything a run needs to know before its first step: the data, surveyed, and a recipe with nothing left open."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vitrail import catalog
from vitrail.checks import update
from vitrail.data.dataset import Dataset
from vitrail.data.survey import Survey, survey
from vitrail.engine import precision
from vitrail.engine.world import World
from vitrail.errors import DataError, UsageError
from vitrail.recipe import Choice, Recipe
from vitrail.run.choose import Facts, fill

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Prepared:
    """A run that could begin now."""

    recipe: Recipe
    dataset: Dataset
    survey: Survey
    reasons: tuple[str, ...]
    notes: tuple[str, ...]  # what was found in the data and left out
    left_out: dict[str, list[int]]  # by part, the places of pictures that could not be read


def open_data(choice: Choice) -> tuple[Dataset, Choice]:
    """The data set that a recipe names, and the choice with its layout found out and its path made absolute."""
    path = str(choice.keys.get("path", ""))
    if not path and not choice.name:
        raise UsageError("no data was given", "--data mini, or --data FOLDER with one folder of pictures per class")
    name = choice.name or catalog.layout(path)
    module = catalog.module("datasets", name)
    keys = dict(choice.keys)
    if path and Path(path).exists():
        keys["path"] = str(Path(path).absolute())
    config = update(module.Config(), keys, f"data ({name})")
    return module.build(config), Choice(name, keys)


def prepare(recipe: Recipe, world: World, progress: Progress | None = None) -> Prepared:
    """Opens and surveys the data, leaves out what may be left out, and fills the recipe.

    Errors: `DataError` for data that cannot be trained on, `UsageError` for a recipe that cannot be.
    """
    catalog.module("tasks", recipe.task.name)  # wrong names are found before any picture is read
    if recipe.model.name:
        update(catalog.config("models", recipe.model.name), recipe.model.keys, recipe.model.name)
    dataset, data = open_data(recipe.data)
    found = world.once(lambda: survey(dataset, progress))
    left_out, notes = bad(dataset, found, recipe)
    dataset = without(dataset, left_out)
    filled, reasons = fill(dataclasses.replace(recipe, data=data), facts(dataset, found, world.device))
    chosen = world.once(lambda: precision.choose(filled.plan.precision, world.device))
    if filled.plan.precision == "auto":
        reasons.append(f"plan.precision = {chosen.name}: {chosen.reason}")
    plan = dataclasses.replace(filled.plan, precision=chosen.name)  # type: ignore[arg-type]
    filled = dataclasses.replace(filled, plan=plan)
    check_keep(filled)
    return Prepared(filled, dataset, found, tuple(reasons), tuple(notes), left_out)


def check_keep(recipe: Recipe) -> None:
    keep = recipe.machine.keep
    if keep < 2:
        raise UsageError(f"machine.keep is {keep}: fewer than 2 checkpoints cannot survive a damaged one", "--machine.keep 2")


def facts(dataset: Dataset, found: Survey, device: torch.device) -> Facts:
    return Facts(
        count=len(dataset.splits["train"]),
        size=(found.sizes.height[1], found.sizes.width[1]),
        uniform=found.sizes.distinct == 1,
        channels=dataset.channels,
        mean=found.mean,
        std=found.std,
        mirrored=not (dataset.layout == "idx" and dataset.classes[0].isdigit()),
        gpu=device.type == "cuda",
    )


def bad(dataset: Dataset, found: Survey, recipe: Recipe) -> tuple[dict[str, list[int]], list[str]]:
    """The pictures to leave out, by part, where the recipe allows that. Errors: `DataError`."""
    if not found.corrupt:
        return {}, []
    share = len(found.corrupt) / sum(len(s) for s in dataset.splits.values())
    first, budget = found.corrupt[0], recipe.plan.bad_budget
    what = f"{len(found.corrupt)} pictures ({share:.2%}) cannot be read, the first: {first.name} ({first.reason})"
    if recipe.plan.bad == "fail":
        raise DataError(what, "vitrail check lists them all; remove them, or --plan.bad skip leaves them out")
    if share > budget:
        raise DataError(what, f"the budget is {budget:.2%}; --plan.bad-budget {share + 0.001:.3f} allows them")
    places: dict[str, list[int]] = {}
    for item in found.corrupt:
        places.setdefault(item.split, []).append(item.number)
    return places, [f"left out: {what}"]


def without(dataset: Dataset, places: dict[str, list[int]]) -> Dataset:
    """The data set with the pictures at some places of its parts left out."""
    if not places:
        return dataset
    splits = {
        name: split.take(np.setdiff1d(np.arange(len(split)), places.get(name, []))) for name, split in dataset.splits.items()
    }  # fmt: skip
    return dataclasses.replace(dataset, splits=splits)


def held_out(dataset: Dataset, final: bool) -> str:
    """Which part judges the model: while it trains the validation part, at the end the test part; what there is of them."""
    order = ("test", "val") if final else ("val", "test")
    return next((name for name in order if name in dataset.splits), "train")
