"""Recipe -> model, and model -> folder and back. Everything after training starts here, from the saved files alone."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from vitrail import catalog
from vitrail.analysis.cost import on_meta_device
from vitrail.assembly.resolve import Names
from vitrail.contracts import Task
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.errors import CheckpointError, UsageError, choose
from vitrail.layers.merge import Merge
from vitrail.recipe import Choice, InputConfig, Recipe, to_tables, with_defaults
from vitrail.validation import Positive, validate

FORMAT = 1


@dataclass(frozen=True)
class ModelBundle:
    """A model with its task, recipe (which has the preprocessing) and classes. origin: of the published weights that it
    began with: their name, source, licence, revision and hash; empty where it began with none."""

    model: nn.Module
    task: Task
    recipe: Recipe
    classes: tuple[str, ...]
    origin: Mapping[str, Any] = field(default_factory=dict)


def create_model(name: str, classes: int, keys: dict[str, Any]) -> nn.Module:
    """A classifier by name, which records its name and keys for saving; or a denoiser with so many classes."""
    names = Names()
    entry = names.find("models", name)
    known = [f.name for f in dataclasses.fields(entry.config)]
    if vars(entry.config).get("classes") is not None:  # a denoiser: it is conditioned on its classes and takes no head
        return names.model(Choice(name, {"classes": classes, **keys}))
    for key in keys:
        choose(key, [*known, "classes"], "key", f"keys: classes, {', '.join(known)}", f" in {name}")
    task = names.task(Choice("classification"), validate(classes, Positive, "classes"))
    model: Any = task.assemble(names.model(Choice(name, keys)))
    model.origin = Choice(name, keys)
    return model


def create_backbone(name: str, keys: dict[str, Any]) -> nn.Module:
    """A backbone or denoiser by name, with random weights."""
    return Names().model(Choice(name, keys))


def assemble_model(
    recipe: Recipe, classes: tuple[str, ...], multi_label: bool = False, names: Names | None = None
) -> ModelBundle:
    """The model of a recipe with every option set. names: the resolved names, if they were resolved before."""
    names = names or Names()
    task = names.task(recipe.task, len(classes), multi_label)
    model = task.assemble(names.model(recipe.model, recipe.input.size, recipe.input.channels))
    return ModelBundle(model, task, recipe, task.output_names(classes))


def with_merging(bundle: ModelBundle, merge: Merge | None) -> ModelBundle:
    """The same weights in a model that merges tokens so, see `vitrail.layers.merge`; None: as it was trained. Errors:
    `UsageError` for a model that cannot."""
    chosen = bundle.recipe.model
    if merge is None or (merge == 0 and not chosen.keys.get("merge")):
        return bundle
    if not takes_merging(chosen.name):
        able = filter(takes_merging, catalog.list_modules("models"))
        raise UsageError(
            f"{chosen.name} cannot merge tokens: its blocks need the whole grid, or have no tokens",
            f"families that can: {', '.join(able)}",
        )
    model = Choice(chosen.name, {**chosen.keys, "merge": merge})
    recipe = dataclasses.replace(bundle.recipe, model=model)
    merging = assemble_model(recipe, bundle.classes, bundle.task.multi_label).model
    merging.load_state_dict(bundle.model.state_dict())
    return dataclasses.replace(bundle, model=merging.train(bundle.model.training), recipe=recipe)


def takes_merging(name: str) -> bool:
    """Whether a model, or the models of a family, can merge tokens."""
    return "merge" in [f.name for f in dataclasses.fields(catalog.load_module("models", name).Config)]


def class_dependent(bundle: ModelBundle) -> set[str]:
    """The names of the tensors whose shape depends on the number of classes: those that another class would change."""
    with on_meta_device():
        other = assemble_model(bundle.recipe, (*bundle.classes, "one more"), bundle.task.multi_label).model
    shapes = {name: t.shape for name, t in other.state_dict().items()}
    return {name for name, t in bundle.model.state_dict().items() if shapes.get(name) != t.shape}


def build_preprocess(given: InputConfig) -> Preprocess:
    """The preprocessing of a recipe."""
    if given.size is None or given.mean is None or given.std is None or not given.channels:
        raise CheckpointError("the preprocessing of the model is unknown", "load it from its run folder")
    for name, values in (("mean", given.mean), ("std", given.std)):
        if len(values) != given.channels:
            raise UsageError(
                f"input.{name} has {len(values)} values for {given.channels} channels", "give one number per channel"
            )
    resize = given.resize_mode or "stretch"
    size, whole = (given.size[0], given.size[1]), with_defaults(given)
    rest: Any = (whole.crop_ratio, whole.interpolation, whole.background)
    return Preprocess(size, given.channels, given.mean, given.std, resize, *rest)


def describe_bundle(bundle: ModelBundle) -> dict[str, Any]:
    """The metadata of a weights file, without paths, host names or the command line."""
    tables = to_tables(dataclasses.replace(bundle.recipe, input=with_defaults(bundle.recipe.input)))
    tables["data"] = {"name": bundle.recipe.data.name}
    tables["task"] = {k: v for k, v in tables["task"].items() if k not in bundle.task.path_keys}
    tables["input"].pop("vae", None)
    del tables["runtime"], tables["init"], tables["eval"]
    about = {"format": FORMAT, "recipe": tables, "classes": list(bundle.classes)}
    about["multi_label"] = bundle.task.multi_label
    return {**about, "origin": dict(bundle.origin)} if bundle.origin else about
