"""Recipe -> model, and model -> folder and back. Everything after training starts here, from what was saved alone."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from vitrail.assembly.resolve import Names
from vitrail.contracts import Task
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.errors import CheckpointError, UsageError, choose
from vitrail.recipe import Choice, InputConfig, Recipe, from_tables, to_tables
from vitrail.storage.tensors import unpack
from vitrail.validation import Positive, validate

FORMAT = 1


@dataclass(frozen=True)
class ModelBundle:
    """A model with all that is known of it: how it was made, its classes, what its images must become."""

    model: nn.Module
    task: Task
    recipe: Recipe
    classes: tuple[str, ...]


def create_model(name: str, classes: int, keys: dict[str, Any]) -> nn.Module:
    """A classifier by name, which remembers how it was asked for, so that it can be saved; or a denoiser of so many classes."""
    names = Names()
    entry = names.find("models", name)
    if entry.kind == "denoiser":
        return names.model(Choice(name, {"classes": classes, **keys}))
    known = [f.name for f in dataclasses.fields(entry.config)]
    for key in keys:
        choose(key, [*known, "classes"], "key", f"keys: classes, {', '.join(known)}", f" in {name}")
    task = names.task(Choice("classification"), validate(classes, Positive, "classes"))
    made: Any = task.assemble(names.model(Choice(name, keys)))
    made.origin = Choice(name, keys)
    return made


def assemble_model(
    recipe: Recipe, classes: tuple[str, ...], multi_label: bool = False, names: Names | None = None
) -> ModelBundle:
    """The model of a recipe with nothing left open. names: where its names were looked up before."""
    names = names or Names()
    task = names.task(recipe.task, len(classes), multi_label)
    model = task.assemble(names.model(recipe.model, recipe.input.size, recipe.input.channels))
    return ModelBundle(model, task, recipe, task.output_names(classes))


def build_preprocess(given: InputConfig) -> Preprocess:
    """The deterministic part of a recipe's input."""
    if given.size is None or given.mean is None or given.std is None or not given.channels:
        raise CheckpointError("the model does not say how its images are prepared", "load it from its run folder")
    for name, values in (("mean", given.mean), ("std", given.std)):
        if len(values) != given.channels:
            raise UsageError(
                f"input.{name} has {len(values)} values for {given.channels} channels", "give one number per channel"
            )
    resize = given.resize_mode or "stretch"
    size = (given.size[0], given.size[1])
    return Preprocess(
        size, given.channels, given.mean, given.std, resize, given.crop_ratio, given.interpolation, given.background
    )


def describe_bundle(bundle: ModelBundle) -> dict[str, Any]:
    """What a weights file says of itself. No path, name of a machine or word of a command line is in it."""
    tables = to_tables(bundle.recipe)
    tables["data"] = {"name": bundle.recipe.data.name}
    tables["task"] = {k: v for k, v in tables["task"].items() if k not in bundle.task.path_keys}
    tables["input"].pop("vae", None)
    del tables["runtime"], tables["init"]
    return {"format": FORMAT, "recipe": tables, "classes": list(bundle.classes), "multi_label": bundle.task.multi_label}


def restore_bundle(path: Path) -> ModelBundle:
    """The model in a .safetensors file that `describe_bundle` describes. Errors: `CheckpointError`."""
    tensors, said = unpack(path)
    if not said:
        raise CheckpointError(
            f"{path} does not say which model it belongs to",
            "only files that vitrail wrote can be loaded by themselves",
        )
    if said.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has format {said.get('format')}, this vitrail reads {FORMAT}", "use the version that wrote it"
        )
    recipe = from_tables(said["recipe"], str(path))
    bundle = assemble_model(recipe, tuple(said["classes"]), said["multi_label"])
    try:
        bundle.model.load_state_dict(tensors)
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"{path} does not fit the model it names: {detail}", "it was written by another version"
        ) from None
    return dataclasses.replace(bundle, model=bundle.model.eval())
