"""Published weights brought into a model, and a whole published file into a model folder that is ready for use."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitrail.assembly import model
from vitrail.assembly.model import Described
from vitrail.assembly.resolve import Names
from vitrail.contracts import trunk_of
from vitrail.errors import CheckpointError, UsageError
from vitrail.recipe import Choice, Input, Recipe, override
from vitrail.storage.atomic import write_folder
from vitrail.storage.tensors import pack
from vitrail.validation import Positive, checked
from vitrail.weights.load import Chosen, Options, choose, load
from vitrail.weights.preprocessing import IMAGENET
from vitrail.weights.published import Known, said, table
from vitrail.weights.read import read
from vitrail.weights.report import LoadReport

CLASSES = 1000  # of a new head, where nobody says how many


@dataclass(frozen=True)
class Wish:
    """What is to be brought, as it was asked for."""

    file: Path
    model: Choice
    out: Path
    source: str = "auto"
    classes: int | tuple[str, ...] | None = None  # how many, or their names; None: as many as the file's head has
    input: dict[str, Any] = field(default_factory=dict)  # keys of a recipe's [input] that are known better than from the source
    licence: str = ""
    sha256: str | None = None
    options: Options = field(default_factory=Options)


@dataclass(frozen=True)
class Brought:
    """A model folder that was written: what was loaded, how, and what was decided on the way."""

    folder: Path
    report: LoadReport
    reasons: tuple[str, ...]

    def lines(self) -> list[str]:
        return [*self.report.lines(), *(f"{'chosen':<11} {reason}" for reason in self.reasons), f"{'written':<11} {self.folder}"]


def bring(wish: Wish) -> Brought:
    """Reads, loads, and writes the folder `wish.out`. Errors: `CheckpointError`; `UsageError` where the folder is there already."""
    if wish.out.exists():
        raise UsageError(f"{wish.out} is there already and is never overwritten", "choose another folder")
    names = Names()
    names.model_config(wish.model)
    raw = read(wish.file, wish.sha256)
    known = table(wish.model.name.partition("/")[0])
    with torch.device("meta"):  # only names and shapes are needed to recognise a file
        chosen = choose(model.create(wish.model.name, 1, wish.model.keys), raw, known.sources, wish.source)
    classes = class_names(wish, chosen)
    keys, reasons = settings(wish, known, chosen, names)
    made = model.create(wish.model.name, len(classes), keys)
    report = load(made, raw, chosen, wish.options)
    given, why = pictures(wish, known, chosen.source, made)
    recipe = Recipe(model=Choice(wish.model.name, keys), input=given, task=Choice("classification"))
    described = Described(made, names.task(recipe.task, len(classes)), recipe, classes)
    new = () if any(n.startswith("heads.") for n in report.loaded) else ("the head is new: train it before believing a prediction",)
    return Brought(write(described, wish, report), report, (*reasons, *why, *licence(wish), *new))


def class_names(wish: Wish, chosen: Chosen) -> tuple[str, ...]:
    """The classes: as said, or as many as the head in the file has."""
    if isinstance(wish.classes, tuple):
        if len(set(wish.classes)) != len(wish.classes) or not all(wish.classes):
            raise UsageError("two classes have the same name, or one has none", "one name a class, each once")
        return wish.classes
    count = checked(wish.classes, Positive, "classes") if wish.classes is not None else 0
    head = chosen.tensors.get("heads.0.weight")
    if not count and not wish.options.leave_head:
        if head is None:
            raise CheckpointError(f"the file has no head (read as {chosen.source})", "--leave-head --classes 10 gives the model a new one")
        count = head.shape[0] if head.ndim == 2 else 0
    return tuple(map(str, range(count or CLASSES)))


def settings(wish: Wish, known: Known, chosen: Chosen, names: Names) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Keys of the model with which its numbers are those of the source, unless they were given."""
    keys, reasons = dict(wish.model.keys), []
    fields = {f.name for f in dataclasses.fields(names.find("models", wish.model.name).config)}
    spelled = {key.replace("-", "_") for key in keys}
    for key, value in said(known.settings, chosen.source, {}).items():
        if key in fields and key not in spelled:
            keys[key] = value
            reasons.append(f"model.{key} = {value}: as {chosen.source} has it")
    return keys, tuple(reasons)


def pictures(wish: Wish, known: Known, source: str, made: nn.Module) -> tuple[Input, tuple[str, ...]]:
    """What pictures become, by the source and by what was said."""
    config: Any = trunk_of(made).config
    found = said(known.pictures, source, IMAGENET)
    rows = {name: adapted(getattr(found, name), config.channels) for name in ("mean", "std")}
    given = Input(config.size, config.channels, rows["mean"], rows["std"], found.resize, found.crop_ratio, found.interpolation)
    for key in wish.input:
        if key.replace("-", "_") in ("size", "channels"):
            raise UsageError(f"input.{key} is the model's own", f"say --model.{key}")
    given = override(Recipe(input=given), "input", wish.input).input
    model.preprocess(given)
    shown = ", ".join(f"{key} {getattr(given, key)}" for key in ("mean", "std", "resize", "crop_ratio", "interpolation"))
    return given, (f"input: {shown}; as is usual for {source}" + (f", but {', '.join(wish.input)} as said" if wish.input else ""),)


def adapted(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Statistics of three channels for another number: the mean where one stands for all, else in turn as kernels are repeated."""
    return (sum(values) / len(values),) if channels == 1 else tuple(values[i % len(values)] for i in range(channels))


def licence(wish: Wish) -> tuple[str, ...]:
    return () if wish.licence else ("no licence is recorded; --licence TEXT keeps one with the weights",)


def write(described: Described, wish: Wish, report: LoadReport) -> Path:
    """The folder that `vitrail.load` reads, with where the weights came from in its header."""
    origin = {"source": report.source, "sha256": report.sha256, "licence": wish.licence, "fraction": round(report.fraction, 6)}
    content = pack(dict(described.model.state_dict()), {**model.about(described), "origin": origin})
    try:
        write_folder(wish.out, {"model.safetensors": content})
    except OSError as error:
        raise UsageError(f"{wish.out} cannot be written: {error.strerror or error}", "choose another folder") from None
    return wish.out
