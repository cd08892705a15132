"""Recipe -> everything that a run needs before its first step: the surveyed data, and a recipe with every option
set."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

from vitrail.assembly import autoencoder, pretrained
from vitrail.assembly.checks import check_fits, check_keep
from vitrail.assembly.data import choose_images, open_data
from vitrail.assembly.defaults import fill_recipe, gather_facts, suggest_weights
from vitrail.assembly.opening.surveyed import describe_survey, survey_data
from vitrail.assembly.precision import resolve_precision
from vitrail.assembly.pretrained import WeightsOrigin
from vitrail.assembly.resolve import Names
from vitrail.assembly.task import annotations_of, choose_task, with_absolute_paths
from vitrail.data.dataset import Dataset
from vitrail.data.survey.assess import assess
from vitrail.data.survey.images import Survey
from vitrail.engine.processes.world import World, best_device
from vitrail.recipe import DataConfig, Recipe
from vitrail.storage.printable import shell_word

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class PreparedRun:
    """A run that is ready to start."""

    recipe: Recipe
    dataset: Dataset
    survey: Survey
    reasons: tuple[str, ...]
    notes: tuple[str, ...]  # on the data, such as images that were left out
    left_out: dict[str, list[int]]  # by split, the indices of images that could not be read
    origin: WeightsOrigin | None = None  # the initial weights
    names: Names = field(default_factory=Names)  # the resolved names of the recipe


def prepare_run(recipe: Recipe, world: World, progress: Progress | None = None) -> PreparedRun:
    """Opens and surveys the data, leaves out unreadable images where that is allowed, and fills in the recipe.

    Errors: `DataError` for data that cannot be trained on, `UsageError` for a recipe that contradicts itself or the
    data.
    """
    names, given = Names(), recipe.data  # wrong ones are found before any image is read
    annotations = annotations_of(recipe, names)
    if recipe.model.name:
        names.model_config(recipe.model)
    pretrained.check_name(recipe.init)
    dataset, data = open_data(recipe.data, annotations, names)
    origin = pretrained.find_weights(recipe.init, recipe.model)  # fetched for data that is there
    recipe, task, reasons = choose_task(recipe, dataset, origin.model if origin else "", names)
    is_new = pretrained.has_new_head(origin, task.output_names(dataset.classes), recipe.task.name, recipe.init)
    if origin:
        recipe, inherited = pretrained.inherit_settings(recipe, origin, dataset.channels, task, is_new)
        reasons += inherited
    recipe, latent_shape = autoencoder.resolve_autoencoder(recipe, task.is_generative)
    is_whole = recipe.data.fingerprint == "content"
    survey, broken = world.on_rank_zero(lambda: survey_data(dataset, data.keys, is_whole, progress))
    listing = f"vitrail check {shell_word(str(data.keys.get('path') or data.name))}"
    rules = recipe.data.on_error, recipe.data.max_errors
    assessment = assess(dataset, survey, broken, *rules, listing, has_weights=origin is not None)
    if assessment.refusal:
        raise assessment.refusal
    recipe, dataset, held_out = choose_images(recipe, dataset, task, assessment.left_out)
    reasons = [*reasons, *held_out]
    data = dataclasses.replace(data, val_fraction=recipe.data.val_fraction)
    recipe = dataclasses.replace(recipe, data=data, task=with_absolute_paths(recipe.task, task))
    facts = dataclasses.replace(
        gather_facts(dataset, survey, world.device, data.keys, task),
        latent_shape=latent_shape,
        is_new_head=is_new,
    )
    filled, choices = fill_recipe(recipe, facts, task.defaults(), names.model_config)
    filled, precision_reasons = resolve_precision(filled, names, world)
    hint = "" if origin else suggest_weights(given, facts.count, task.defaults(), facts.gpu)
    check_keep(filled)
    check_fits(filled, dataset, task)
    return PreparedRun(
        filled,
        dataset,
        survey,
        (*reasons, *choices, *precision_reasons, *([hint] if hint else [])),
        (*describe_survey(survey), *assessment.notes),
        assessment.left_out,
        origin,
        names,
    )


def explain_settings(choice: DataConfig, dataset: Dataset, survey: Survey, left_out: dict[str, list[int]]) -> list[str]:
    """The settings that a run on surveyed data would choose on this machine, with their reasons."""
    names, device = Names(), best_device()
    recipe, task, reasons = choose_task(Recipe(data=choice), dataset, "", names)
    recipe, dataset, held_out = choose_images(recipe, dataset, task, left_out)
    facts = gather_facts(dataset, survey, device, choice.keys, task)
    filled, choices = fill_recipe(recipe, facts, task.defaults(), names.model_config)
    hint = suggest_weights(choice, facts.count, task.defaults(), facts.gpu)
    precision = resolve_precision(filled, names, World(0, 1, device))[1]
    return [*reasons, *held_out, *choices, *precision, *([hint] if hint else [])]
