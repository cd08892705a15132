"""Recipe -> everything that a run needs before its first step: the surveyed data, and a recipe with every option
set."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from vitrail.assembly import autoencoder, pretrained
from vitrail.assembly.checks import check_fits, check_keep
from vitrail.assembly.data import drop_images, open_data, with_fraction
from vitrail.assembly.defaults import fill_recipe
from vitrail.assembly.precision import resolve_precision
from vitrail.assembly.pretrained import WeightsOrigin
from vitrail.assembly.resolve import Names
from vitrail.assembly.task import annotations_of, choose_task, with_absolute_paths
from vitrail.data.dataset import Dataset
from vitrail.data.survey.annotations import survey_annotations
from vitrail.data.survey.images import Survey, UnreadableImage, survey_images
from vitrail.engine.world import World
from vitrail.errors import DataError, UsageError
from vitrail.facts import Facts
from vitrail.recipe import Recipe

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class PreparedRun:
    """A run that is ready to start."""

    recipe: Recipe
    dataset: Dataset
    survey: Survey
    reasons: tuple[str, ...]
    notes: tuple[str, ...]  # on the data, such as skipped images
    left_out: dict[str, list[int]]  # by split, the indices of images that could not be read
    origin: WeightsOrigin | None = None  # the initial weights
    names: Names = field(default_factory=Names)  # the resolved names of the recipe


def prepare_run(recipe: Recipe, world: World, progress: Progress | None = None) -> PreparedRun:
    """Opens and surveys the data, skips unreadable images where that is allowed, and fills in the recipe.

    Errors: `DataError` for data that cannot be trained on, `UsageError` for a recipe that contradicts itself or the
    data.
    """
    names = Names()  # wrong ones are found before any image is read
    annotations = annotations_of(recipe, names)
    origin = pretrained.find_weights(recipe.init)
    if recipe.model.name:
        names.model_config(recipe.model)
    dataset, data = open_data(recipe.data, annotations, names)
    recipe, task, reasons = choose_task(
        recipe, dataset, origin.recipe.model.name if origin and origin.recipe else "", names
    )
    if origin:
        recipe, inherited = pretrained.inherit_settings(recipe, origin, dataset.channels, task, names)
        reasons += inherited
    if recipe.input.vae is not None and not task.is_generative:
        raise UsageError("input.vae is for generative models", "leave it out, or --model dit/small_2")
    recipe, latent_shape = autoencoder.resolve_autoencoder(recipe)
    survey = world.on_rank_zero(lambda: survey_images(dataset, progress))
    broken = world.on_rank_zero(lambda: broken_annotations(dataset, survey))
    left_out, notes = skip_unreadable(dataset, (*survey.corrupt, *broken), recipe)
    dataset = with_fraction(drop_images(dataset, left_out), recipe)
    recipe = dataclasses.replace(recipe, data=data, task=with_absolute_paths(recipe.task, task))
    facts = dataclasses.replace(gather_facts(dataset, survey, world.device, data.keys), latent_shape=latent_shape)
    filled, choices = fill_recipe(recipe, facts, task.defaults(), names.model_config)
    filled, precision_reasons = resolve_precision(filled, names, world)
    check_keep(filled)
    check_fits(filled, dataset, task)
    return PreparedRun(
        filled, dataset, survey, (*reasons, *choices, *precision_reasons), tuple(notes), left_out, origin, names
    )


def gather_facts(dataset: Dataset, survey: Survey, device: torch.device, keys: Mapping[str, Any]) -> Facts:
    """The facts that defaults depend on. keys: those of the data set."""
    return Facts(
        count=len(dataset.splits["train"]),
        size=(survey.sizes.height[1], survey.sizes.width[1]),
        uniform=survey.sizes.distinct == 1,
        channels=dataset.channels,
        mean=survey.mean,
        std=survey.std,
        is_mirrorable=not (dataset.layout == "idx" and dataset.classes[0].isdigit()),
        gpu=device.type == "cuda",
        classes=len(dataset.classes),
        tile=int(keys.get("tile", 0)),
    )


def broken_annotations(dataset: Dataset, survey: Survey) -> tuple[UnreadableImage, ...]:
    """Masks and boxes that cannot be read or do not fit their image, of images that can be read."""
    if not dataset.is_annotated:
        return ()
    unread = {(item.split, item.number) for item in survey.corrupt}
    return tuple(item for item in survey_annotations(dataset).broken if (item.split, item.number) not in unread)


def skip_unreadable(
    dataset: Dataset, corrupt: tuple[UnreadableImage, ...], recipe: Recipe
) -> tuple[dict[str, list[int]], list[str]]:
    """The indices of images to skip, by split, where the recipe allows that. Errors: `DataError`."""
    if not corrupt:
        return {}, []
    fraction = len(corrupt) / sum(len(s) for s in dataset.splits.values())
    first, budget = corrupt[0], recipe.data.max_errors
    count, ending = len(corrupt), "" if len(corrupt) == 1 else "s"
    what = f"{count:,} image{ending} ({fraction:.2%}) cannot be read, the first: {first.name} ({first.reason})"
    if fraction == 1:
        raise DataError(what, "is this a data set of images? vitrail check lists the files")
    if recipe.data.on_error == "fail":
        allowed = "" if fraction <= budget else f" --data.max-errors {fraction + 0.001:.3f}"
        raise DataError(what, f"vitrail check lists them all; remove them, or --data.on-error skip{allowed} skips them")
    if fraction > budget:
        raise DataError(what, f"data.max_errors is {budget:.2%}; --data.max-errors {fraction + 0.001:.3f} allows them")
    indices: dict[str, list[int]] = {}
    for item in corrupt:
        indices.setdefault(item.split, []).append(item.number)
    return indices, [f"skipped: {what}"]
