"""Recipe -> everything a run needs to know before its first step: the data, surveyed, and a recipe with nothing left open."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from vitrail import catalog
from vitrail.checks import checked, place, update
from vitrail.data.dataset import Dataset
from vitrail.data.survey import Survey, survey
from vitrail.engine import precision
from vitrail.engine.world import World
from vitrail.errors import DataError, UsageError
from vitrail.recipe import Choice, Recipe
from vitrail.run import model
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
    path = checked(choice.keys.get("path", ""), str, "data.path")
    if not path and not choice.name:
        raise UsageError("no data was given", "--data mini, or --data FOLDER with one folder of pictures per class")
    name = choice.name or catalog.layout(path)
    module = catalog.module("datasets", name)
    keys = dict(choice.keys)
    if path and place(path).exists():
        keys["path"] = str(place(path).absolute())
    config = update(module.Config(), keys, f"data ({name})")
    return module.build(config), Choice(name, keys)


def prepare(recipe: Recipe, world: World, progress: Progress | None = None) -> Prepared:
    """Opens and surveys the data, leaves out what may be left out, and fills the recipe.

    Errors: `DataError` for data that cannot be trained on, `UsageError` for a recipe that cannot be.
    """
    catalog.module("tasks", recipe.task.name)  # wrong names are found before any picture is read
    if recipe.model.name:
        model.config(recipe.model)
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
    fits(filled, dataset)
    return Prepared(filled, dataset, found, tuple(reasons), tuple(notes), left_out)


def check_keep(recipe: Recipe) -> None:
    keep = recipe.machine.keep
    if keep < 2:
        raise UsageError(f"machine.keep is {keep}: fewer than 2 checkpoints cannot survive a damaged one", "--machine.keep 2")


def fits(recipe: Recipe, dataset: Dataset) -> None:
    """Errors: `UsageError` for settings that contradict each other or the data, which would only be noticed at some step."""
    given, have, low, high = recipe.input, dataset.channels, *recipe.augment.scale
    if not (have == given.channels or have == 1 or (given.channels == 1 and have >= 3) or (given.channels, have) == (3, 4)):
        raise UsageError(f"input.channels is {given.channels}, and pictures with {have} cannot be made into that", "leave it out")
    if (takes := recipe.model.keys.get("channels", given.channels)) != given.channels:
        raise UsageError(f"model.channels is {takes}, but the pictures have {given.channels}", f"--input.channels {takes}, or leave it out")
    model.preprocess(given)
    if low > high or high == 0:
        raise UsageError(f"augment.scale is from {low} to {high}", "the smaller share comes first: --augment.scale 0.35 1")


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
    count, ending = len(found.corrupt), "" if len(found.corrupt) == 1 else "s"
    what = f"{count:,} picture{ending} ({share:.2%}) cannot be read, the first: {first.name} ({first.reason})"
    if share == 1:
        raise DataError(what, "are these pictures at all? vitrail check lists them")
    if recipe.plan.bad == "fail":
        allowed = "" if share <= budget else f" --plan.bad-budget {share + 0.001:.3f}"
        raise DataError(what, f"vitrail check lists them all; remove them, or --plan.bad skip{allowed} leaves them out")
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
