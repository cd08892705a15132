"""Weights that a run begins with: those of another run, of a model folder, or of a file of published weights.

What they know of their model and its images holds for the new run, unless something else is said.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitrail.assembly import model, run_directory
from vitrail.assembly.load import load_bundle
from vitrail.assembly.resolve import Names
from vitrail.contracts import Denoiser, Task
from vitrail.errors import CheckpointError, UsageError
from vitrail.recipe import Choice, InitConfig, InputConfig, Recipe
from vitrail.validation import as_path
from vitrail.weights import published as weights_published
from vitrail.weights.load import LoadOptions, MatchedTensors, choose_source, load_tensors
from vitrail.weights.preprocessing import IMAGENET
from vitrail.weights.read import RawWeights, read_weights
from vitrail.weights.report import LoadReport


@dataclass(frozen=True)
class WeightsOrigin:
    """Tensors, and what is known of where they come from. `recipe`: of ours only; `classes`: None where a file has no names."""

    path: Path
    raw: RawWeights
    source: str
    recipe: Recipe | None = None
    classes: tuple[str, ...] | None = None


def find_weights(start: InitConfig) -> WeightsOrigin | None:
    """What `start` names, read and checked. Errors: `CheckpointError`, `UsageError`."""
    if not start.weights:
        return None
    path = as_path(start.weights)
    if path.is_file():
        raw = read_weights(path)
        if "recipe" not in raw.about:
            return WeightsOrigin(path, raw, start.format)
    elif not path.exists():
        path = run_directory.find_run(start.weights).path
    own, _ = load_bundle(path)
    raw = RawWeights(dict(own.model.state_dict()), {}, "", ())
    return WeightsOrigin(path, raw, "vitrail", own.recipe, own.classes)


def inherit_settings(
    recipe: Recipe, origin: WeightsOrigin, channels: int, task: Task, names: Names
) -> tuple[Recipe, list[str]]:
    """The recipe with model and images as the weights know them where nothing else was said, and the reasons.

    `channels` of the data: weights for fewer channels are widened rather than colour thrown away, and the middle of an image,
    which is enough for its class, is not enough for masks and boxes.
    """
    reasons = [f"init.weights = {origin.path}"]
    if origin.recipe is None:
        if not recipe.model.name:
            raise UsageError(
                f"{origin.path} does not say which model it is of", "--model NAME says it; vitrail models lists them"
            )
        theirs, why = published(recipe, origin, names)
    else:
        theirs, why = origin.recipe, "as the weights were trained"
    same = recipe.model.name in ("", theirs.model.name)
    keys = {**(lasting(theirs.model.keys) if same else {}), **recipe.model.keys}
    chosen = Choice(recipe.model.name or theirs.model.name, keys)
    if chosen != recipe.model:
        reasons.append(f"model = {chosen.name}: {why}")
    wanted = recipe.task
    if (
        same and wanted.name == theirs.task.name and task.is_generative
    ):  # what a denoiser says and of which noise is in its weights
        wanted = Choice(wanted.name, {**lasting(theirs.task.keys), **wanted.keys})
    given, taken = recipe.input, {}
    others = (given.channels or max(channels, theirs.input.channels)) != theirs.input.channels
    for field in dataclasses.fields(InputConfig):
        value = getattr(theirs.input, field.name)
        unfit = (others and field.name in ("channels", "mean", "std")) or (
            task.is_dense and (field.name, value) == ("resize_mode", "crop")
        )
        if getattr(given, field.name) == field.default != value and not unfit:
            taken[field.name] = value
    if taken:
        reasons.append(f"input.{', input.'.join(taken)}: {why}")
    start = dataclasses.replace(recipe.init, weights=str(origin.path.absolute()))
    return dataclasses.replace(
        recipe, model=chosen, task=wanted, input=dataclasses.replace(given, **taken), init=start
    ), reasons


def lasting(keys: dict[str, Any]) -> dict[str, Any]:
    """What of a model's or task's keys holds for other data: not the number of its classes, unless it was to know none."""
    return {key: value for key, value in keys.items() if key != "classes" or value == 0}


def published(recipe: Recipe, origin: WeightsOrigin, names: Names) -> tuple[Recipe, str]:
    """What the table of a family knows of a file: keys of the model, and what its images become."""
    about = weights_published.load_table(recipe.model.name.partition("/")[0])
    with torch.device("meta"):
        chosen = choose_source(
            model.create_model(recipe.model.name, 1, recipe.model.keys), origin.raw, about.sources, origin.source
        )
    fields = {f.name for f in dataclasses.fields(names.model_config(recipe.model))}
    keys = {
        k: v for k, v in weights_published.lookup_by_source(about.settings, chosen.source, {}).items() if k in fields
    }
    config: Any = names.model_config(Choice(recipe.model.name, {**keys, **recipe.model.keys}))
    kept = weights_published.lookup_by_source(about.preprocessing, chosen.source, IMAGENET)
    given = InputConfig(
        config.size, config.channels, kept.mean, kept.std, kept.resize, kept.crop_ratio, kept.interpolation
    )
    return Recipe(model=Choice(recipe.model.name, keys), input=given), f"as is usual for {chosen.source}"


def load_origin(made: nn.Module, origin: WeightsOrigin, start: InitConfig, classes: tuple[str, ...]) -> LoadReport:
    """Loads the weights into a new model: tables, patches and channels are resampled, a head for other classes starts anew.

    Errors: `CheckpointError`, and then the model is as it was.
    """
    chosen = choose_source(
        made, origin.raw, weights_published.load_table(weights_published.family_of(made)).sources, origin.source
    )
    if isinstance(made, Denoiser):
        return denoiser(made, origin, chosen, start, classes)
    fits = keeps_head(chosen, origin, classes)
    if start.head == "keep" and not fits:
        there = (
            f"for {len(origin.classes)} other classes"
            if origin.classes
            else "for another number of classes, or not there"
        )
        raise CheckpointError(f"the head in {origin.path} is {there}", "--init.head new starts a new one")
    return load_tensors(made, origin.raw, chosen, LoadOptions(resize=True, new_head=start.head == "new" or not fits))


def keeps_head(chosen: MatchedTensors, origin: WeightsOrigin, classes: tuple[str, ...]) -> bool:
    """Whether the head tells the same classes apart: by name where names are known, else by their number."""
    if origin.classes is not None:
        return origin.classes == classes
    head = chosen.tensors.get("heads.0.weight")
    return head is not None and head.shape[0] == len(classes)


def denoiser(
    made: Any, origin: WeightsOrigin, chosen: MatchedTensors, start: InitConfig, classes: tuple[str, ...]
) -> LoadReport:
    """The same for a model that makes images. In place of a head it has a vector for each class and a last one for none: classes that
    the weights know by name keep theirs, others begin as none."""
    table, place = chosen.tensors.get("label.weight"), made.label.weight
    named = (
        origin.classes
        if origin.classes is not None
        else classes
        if table is not None and len(table) == len(classes) + 1
        else ()
    )
    wanted = classes if made.null else ()
    theirs = named if table is not None and len(table) == len(named) + 1 else ()
    if start.head == "keep" and wanted != theirs:
        there = f"for {len(theirs)} other classes" if theirs else "not there"
        raise CheckpointError(
            f"the table of classes in {origin.path} is {there}", "--init.head auto keeps classes of the same name"
        )
    if table is None or table.shape[1:] != place.shape[1:]:
        return load_tensors(made, origin.raw, chosen, LoadOptions(resize=True))  # tells what does not fit
    kept = [theirs.index(name) if name in theirs and start.head != "new" else -1 for name in wanted]
    tensors = {**chosen.tensors, "label.weight": table[[*kept, -1]]}
    report = load_tensors(made, origin.raw, dataclasses.replace(chosen, tensors=tensors), LoadOptions(resize=True))
    fresh = kept.count(-1)
    told = (
        (f"{len(kept) - fresh} of {len(kept)} classes are known by name; the others begin as no class",)
        if fresh
        else ()
    )
    return dataclasses.replace(report, notes=(*report.notes, *told))
