"""Recipe -> model, and model -> folder and back. Everything after training starts here, from what was saved alone."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from vitrail import catalog
from vitrail.checks import Above, Count, Fraction, Positive, checked, shown, update
from vitrail.data.preprocess import Preprocess
from vitrail.errors import CheckpointError, UsageError, pick
from vitrail.recipe import Choice, Input, Recipe, from_tables, to_tables
from vitrail.types import Task
from vitrail.weights.file import unpack

FORMAT = 1
VOCABULARY = {  # one vocabulary for all families, so what a field may be is said once
    **dict.fromkeys(("width", "heads", "patch", "size", "channels"), Positive),
    **dict.fromkeys(("depth", "tokens", "registers"), Count),
    **dict.fromkeys(("dropout", "attention_dropout", "drop_path"), Fraction),
    **dict.fromkeys(("mlp_ratio", "eps", "rope_base"), Above),
}


@dataclass(frozen=True)
class Described:
    """A model with all that is known of it: how it was made, its classes, what its pictures must become."""

    model: nn.Module
    task: Any
    recipe: Recipe
    classes: tuple[str, ...]


def config(choice: Choice) -> Any:
    """The config that a name and its keys stand for. Errors: `UsageError` for unknown keys, wrong kinds, and numbers that cannot be."""
    made = update(catalog.config("models", choice.name), choice.keys, choice.name)
    for name, kind in VOCABULARY.items():
        value = getattr(made, name, None)
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, int | float):
                checked(one, kind, f"{choice.name}.{name}")
    return made


def backbone(choice: Choice, size: tuple[int, int] | None = None, channels: int = 0) -> nn.Module:
    """The backbone that a name and its keys stand for, freshly initialised. Errors: `UsageError` for unknown or wrong keys."""
    keys = dict(choice.keys)
    if size is not None:
        keys.setdefault("size", list(size))
    if channels:
        keys.setdefault("channels", channels)
    return catalog.module("models", choice.name).build(config(Choice(choice.name, keys)))


def create(name: str, classes: int, keys: dict[str, Any]) -> nn.Module:
    """A classifier by name, which remembers how it was asked for, so that it can be saved; or a denoiser of so many classes."""
    known = [f.name for f in dataclasses.fields(catalog.config("models", name))]
    if catalog.kind(name) == "denoiser":
        return backbone(Choice(name, {"classes": classes, **keys}))
    for key in keys:
        pick(key, [*known, "classes"], "key", f"keys: classes, {', '.join(known)}", f" in {name}")
    head = task(Choice("classification"), checked(classes, Positive, "classes"))
    made = head.assemble(backbone(Choice(name, keys)))
    made.origin = Choice(name, keys)
    return made


def task(choice: Choice, classes: int, multi_label: bool = False) -> Any:
    """The task that a name and its keys stand for. Errors: `UsageError` for unknown or wrong keys."""
    module = catalog.module("tasks", choice.name)
    own = {"classes": classes, "multi_label": multi_label}
    made = update(module.Config(), {**own, **choice.keys}, choice.name)
    for key, value in own.items():
        if getattr(made, key) != value:
            raise UsageError(f"{choice.name}.{key} is {shown(getattr(made, key))}, but the data says {shown(value)}", "leave it out")
    return module.build(made)


def assemble(recipe: Recipe, classes: tuple[str, ...], multi_label: bool = False) -> Described:
    """The model of a recipe with nothing left open."""
    made = task(recipe.task, len(classes), multi_label)
    model = made.assemble(backbone(recipe.model, recipe.input.size, recipe.input.channels))
    return Described(model, made, recipe, classes)


def trunk(net: nn.Module) -> Any:
    """The part of a model that holds its blocks in order: the backbone under a head, or a denoiser as a whole."""
    return getattr(net, "backbone", net)


def preprocess(given: Input) -> Preprocess:
    """The deterministic part of a recipe's input."""
    if given.size is None or given.mean is None or given.std is None or not given.channels:
        raise CheckpointError("the model does not say how its pictures are prepared", "load it from its run folder")
    for name, values in (("mean", given.mean), ("std", given.std)):
        if len(values) != given.channels:
            raise UsageError(f"input.{name} has {len(values)} values for {given.channels} channels", "give one number per channel")
    resize = given.resize or "stretch"
    size = (given.size[0], given.size[1])
    return Preprocess(size, given.channels, given.mean, given.std, resize, given.crop_ratio, given.interpolation, given.background)


def about(described: Described) -> dict[str, Any]:
    """What a weights file says of itself. No path, name of a machine or word of a command line is in it."""
    tables = to_tables(described.recipe)
    tables["data"] = {"name": described.recipe.data.name}
    tables["task"] = {k: v for k, v in tables["task"].items() if k not in ("teacher", "teacher_weights", "keep")}
    tables["input"].pop("vae", None)
    del tables["machine"], tables["start"]
    return {"format": FORMAT, "recipe": tables, "classes": list(described.classes), "multi_label": is_multi(described.task)}


def is_multi(task: Task) -> bool:
    return bool(getattr(getattr(task, "config", None), "multi_label", False))


def restore(path: Path) -> Described:
    """The model in a .safetensors file that `about` describes. Errors: `CheckpointError`."""
    tensors, said = unpack(path)
    if not said:
        raise CheckpointError(f"{path} does not say which model it belongs to", "only files that vitrail wrote can be loaded by themselves")
    if said.get("format") != FORMAT:
        raise CheckpointError(f"{path} has format {said.get('format')}, this vitrail reads {FORMAT}", "use the version that wrote it")
    recipe = from_tables(said["recipe"], str(path))
    described = assemble(recipe, tuple(said["classes"]), said["multi_label"])
    try:
        described.model.load_state_dict(tensors)
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{path} does not fit the model it names: {detail}", "it was written by another version") from None
    return dataclasses.replace(described, model=described.model.eval())
