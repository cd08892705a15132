"""Recipe -> everything a run needs to know before its first step: the data, surveyed, and a recipe with nothing left open."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from vitrail import catalog
from vitrail.assembly import latents, pretrained
from vitrail.assembly.checks import check_fits, check_keep
from vitrail.assembly.data import drop_images, open_data, with_fraction
from vitrail.assembly.defaults import fill_recipe
from vitrail.assembly.pretrained import WeightsOrigin
from vitrail.assembly.resolve import Names
from vitrail.contracts import Task
from vitrail.data.dataset import Dataset
from vitrail.data.survey.annotations import survey_annotations
from vitrail.data.survey.images import Survey, UnreadableImage, survey_images
from vitrail.engine import precision
from vitrail.engine.world import World
from vitrail.errors import DataError, UsageError
from vitrail.facts import Facts
from vitrail.recipe import Choice, Recipe
from vitrail.validation import as_path

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class PreparedRun:
    """A run that could begin now."""

    recipe: Recipe
    dataset: Dataset
    survey: Survey
    reasons: tuple[str, ...]
    notes: tuple[str, ...]  # what was found in the data and left out
    left_out: dict[str, list[int]]  # by part, the places of images that could not be read
    origin: WeightsOrigin | None = None  # the weights that the run begins with
    names: Names = field(default_factory=Names)  # what the recipe's names stand for


def prepare_run(recipe: Recipe, world: World, progress: Progress | None = None) -> PreparedRun:
    """Opens and surveys the data, leaves out what may be left out, and fills the recipe.

    Errors: `DataError` for data that cannot be trained on, `UsageError` for a recipe that cannot be.
    """
    names = Names()  # wrong ones are found before any image is read
    asked_for = annotations_of(recipe, names)
    origin = pretrained.find_weights(recipe.init)
    if recipe.model.name:
        names.model_config(recipe.model)
    dataset, data = open_data(recipe.data, asked_for, names)
    recipe, task, learned = purpose(
        recipe, dataset, origin.recipe.model.name if origin and origin.recipe else "", names
    )
    recipe, taken = (
        pretrained.inherit_settings(recipe, origin, dataset.channels, task, names) if origin else (recipe, [])
    )
    if recipe.input.vae is not None and not task.is_generative:
        raise UsageError("input.vae is for models that make images", "leave it out, or --model dit/small_2")
    recipe, coded = latents.resolve_autoencoder(recipe)
    found = world.on_rank_zero(lambda: survey_images(dataset, progress))
    left_out, notes = unreadable(
        dataset, (*found.corrupt, *world.on_rank_zero(lambda: broken_annotations(dataset, found))), recipe
    )
    dataset = with_fraction(drop_images(dataset, left_out), recipe)
    recipe = dataclasses.replace(recipe, data=data, task=absolute(recipe.task, task))
    known = dataclasses.replace(gather_facts(dataset, found, world.device, data.keys), latent_shape=coded)
    filled, reasons = fill_recipe(recipe, known, task.defaults(), names.model_config)
    chosen = world.on_rank_zero(lambda: precision.choose_precision(filled.train.precision, world.device))
    if filled.train.precision == "auto":
        reasons.append(f"train.precision = {chosen.name}: {chosen.reason}")
    plan = dataclasses.replace(filled.train, precision=chosen.name)  # type: ignore[arg-type]
    filled = dataclasses.replace(filled, train=plan)
    check_keep(filled)
    check_fits(filled, dataset, task)
    return PreparedRun(filled, dataset, found, (*learned, *taken, *reasons), tuple(notes), left_out, origin, names)


def annotations_of(recipe: Recipe, names: Names) -> str:
    """What the task that a recipe names learns from; "" where it names none. Errors: `UsageError` for an unknown one."""
    return str(vars(names.find("tasks", recipe.task.name).module)["ANNOTATIONS"]) if recipe.task.name else ""


def purpose(recipe: Recipe, dataset: Dataset, begun: str, names: Names) -> tuple[Recipe, Task, list[str]]:
    """The recipe with a task that such data and such a model are for, the task, and the reason. `begun`: the model of the weights that it
    starts from. Errors: `UsageError` where another was asked for."""
    asked = recipe.model.name or begun
    kind = names.find("models", asked).kind if asked else "backbone"
    usual = catalog.default_task(dataset.kind, kind)
    backbones = catalog.default_task(dataset.kind, "backbone")
    name = recipe.task.name or usual or backbones
    task = names.task(Choice(name, recipe.task.keys), len(dataset.classes), dataset.multi_label)
    if not task.learns_from(dataset.kind):
        raise UsageError(
            f"{name} learns from {task.annotations}, and this data has {dataset.kind}", f"--task {usual or backbones}"
        )
    if asked and task.trains != kind:
        what, fix = TRAINS[task.trains]
        raise UsageError(f"{asked} {what}, so it cannot be trained for {name}", fix)
    why = f"{asked} makes images" if task.is_generative else f"the data has {dataset.kind}"
    told = [] if recipe.task.name or usual == catalog.default_task("classes", "backbone") else [f"task = {name}: {why}"]
    return dataclasses.replace(recipe, task=Choice(name, recipe.task.keys)), task, told


TRAINS = {  # what a task is for: what another kind of model does, and the remedy
    "denoiser": ("makes no images", "--model jit/nano or dit/nano does"),
    "backbone": ("makes images", "leave --task out"),
}


def absolute(choice: Choice, task: Task) -> Choice:
    """A task whose paths hold wherever the run is taken up again."""
    there = {
        k: str(p.absolute()) for k, v in choice.keys.items() if k in task.path_keys and v and (p := as_path(v)).exists()
    }
    return dataclasses.replace(choice, keys={**choice.keys, **there})


def gather_facts(dataset: Dataset, found: Survey, device: torch.device, keys: Mapping[str, Any]) -> Facts:
    """What choices depend on. keys: those of the data set."""
    return Facts(
        count=len(dataset.splits["train"]),
        size=(found.sizes.height[1], found.sizes.width[1]),
        uniform=found.sizes.distinct == 1,
        channels=dataset.channels,
        mean=found.mean,
        std=found.std,
        is_mirrorable=not (dataset.layout == "idx" and dataset.classes[0].isdigit()),
        gpu=device.type == "cuda",
        classes=len(dataset.classes),
        tile=int(keys.get("tile", 0)),
    )


def broken_annotations(dataset: Dataset, found: Survey) -> tuple[UnreadableImage, ...]:
    """Masks and boxes that cannot be read or do not fit their image, of images that can be read."""
    if not dataset.is_annotated:
        return ()
    unread = {(item.split, item.number) for item in found.corrupt}
    return tuple(item for item in survey_annotations(dataset).broken if (item.split, item.number) not in unread)


def unreadable(
    dataset: Dataset, corrupt: tuple[UnreadableImage, ...], recipe: Recipe
) -> tuple[dict[str, list[int]], list[str]]:
    """The images to leave out, by part, where the recipe allows that. Errors: `DataError`."""
    if not corrupt:
        return {}, []
    share = len(corrupt) / sum(len(s) for s in dataset.splits.values())
    first, budget = corrupt[0], recipe.data.max_errors
    count, ending = len(corrupt), "" if len(corrupt) == 1 else "s"
    what = f"{count:,} image{ending} ({share:.2%}) cannot be read, the first: {first.name} ({first.reason})"
    if share == 1:
        raise DataError(what, "are these images at all? vitrail check lists them")
    if recipe.data.on_error == "fail":
        allowed = "" if share <= budget else f" --data.max-errors {share + 0.001:.3f}"
        raise DataError(
            what, f"vitrail check lists them all; remove them, or --data.on-error skip{allowed} leaves them out"
        )
    if share > budget:
        raise DataError(what, f"the budget is {budget:.2%}; --data.max-errors {share + 0.001:.3f} allows them")
    places: dict[str, list[int]] = {}
    for item in corrupt:
        places.setdefault(item.split, []).append(item.number)
    return places, [f"left out: {what}"]
