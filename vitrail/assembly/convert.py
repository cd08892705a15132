"""Imports published weights: a whole published file becomes a model folder that is ready for use."""

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from vitrail.assembly import model
from vitrail.assembly.model import ModelBundle
from vitrail.assembly.resolve import Names
from vitrail.assembly.save import save_model
from vitrail.assembly.whole import build_whole, denoiser_error, recognise_whole
from vitrail.contracts import trunk_of
from vitrail.errors import CheckpointError, UsageError
from vitrail.recipe import Choice, InputConfig, Recipe, override
from vitrail.validation import Positive, validate
from vitrail.weights.folders import read_published
from vitrail.weights.identify import Identified
from vitrail.weights.load import LoadOptions, MatchedTensors, choose_source, load_tensors
from vitrail.weights.locate import Located, locate
from vitrail.weights.published import load_table, lookup_by_source
from vitrail.weights.remote.identified import identify_located
from vitrail.weights.report import LoadReport

CLASSES = 1000  # of a new head, by default


@dataclass(frozen=True)
class ImportRequest:
    """What to import, as requested. name: a file, a folder or the name of published weights; out: None for a folder
    here that is called like the weights."""

    name: str
    model: Choice
    out: Path | None = None
    source: str = "auto"
    classes: int | tuple[str, ...] | None = None  # how many, or their names; None: as many as the file's head has
    input: dict[str, Any] = field(default_factory=dict)  # keys of [input] that override those of the source
    licence: str = ""
    accept_licence: str = ""
    sha256: str | None = None
    options: LoadOptions = field(default_factory=LoadOptions)


@dataclass(frozen=True)
class ImportedModel:
    """A model folder that was written, the report of its weights, and the reasons of every choice."""

    folder: Path
    report: LoadReport
    reasons: tuple[str, ...]

    def lines(self) -> list[str]:
        return [
            *self.report.lines(),
            *(f"{'chosen':<11} {reason}" for reason in self.reasons),
            f"{'written':<11} {self.folder}",
        ]


def import_weights(request: ImportRequest) -> ImportedModel:
    """Reads, loads, and writes the folder `request.out`. Errors: `CheckpointError`; `UsageError` where the folder
    exists."""
    refuse_existing(request.out)
    names = Names()
    if request.model.name:
        names.model_config(request.model)
    located = locate(request.name, request.accept_licence)
    if located.kind == "run":
        raise UsageError(
            f"{request.name} is a run or a model folder of vitrail", "it is used as it is, by all commands"
        )
    request = with_located(request, located)
    refuse_existing(request.out)
    raw, sidecar = read_published(located.files, request.sha256)
    whole = recognise_whole(raw, located.files, sidecar, request.model)
    if whole is not None:
        if request.options.new_head:
            what = f"the head of the file is that of a {whole.task.name}, and --new-head is for classifiers"
            raise UsageError(what, "vitrail train --weights FILE begins with its backbone, whatever the task")
        bundle, report = build_whole(whole, raw, request.input, request.classes)
        folder = write_model(bundle, request, report, located)
        return ImportedModel(folder, report, (*located.reasons, *whole.reasons, *licence(request)))
    found = identify_located(raw, sidecar, located, request.model, request.source)
    published = load_table(found.model.name.partition("/")[0])
    reasons = explain_settings(request, found, lookup_by_source(published.settings, found.source, {}))
    request = with_found(request, found)
    with torch.device("meta"):  # only names and shapes are needed to recognise a file
        chosen = choose_source(
            model.create_model(request.model.name, 1, request.model.keys), raw, published.sources, request.source
        )
    classes = class_names(request, chosen, found.left_out)
    net = model.create_model(request.model.name, len(classes), request.model.keys)
    report = load_tensors(net, raw, chosen, request.options)
    given, why = input_settings(request, found, trunk_of(net).config)
    recipe = Recipe(model=request.model, input=given, task=Choice("classification"))
    bundle = ModelBundle(net, names.task(recipe.task, len(classes)), recipe, classes)
    new = (
        ()
        if any(n.startswith("heads.") for n in report.loaded)
        else ("the head is new and random: train it before using its predictions",)
    )
    reasons = (*located.reasons, *reasons, *why, *licence(request), *new)
    return ImportedModel(write_model(bundle, request, report, located), report, reasons)


def refuse_existing(folder: Path | None) -> None:
    if folder is not None and folder.exists():
        raise UsageError(f"{folder} is there already and is never overwritten", "choose another folder: --out FOLDER")


def with_located(request: ImportRequest, located: Located) -> ImportRequest:
    """The request with what is known of the weights: a folder called like them, their licence, and no head where the
    published ones have none."""
    name = located.name if located.kind == "published" else located.source.partition(":")[2].rpartition("/")[2]
    if located.kind in ("file", "folder", "url"):
        name = located.files.name.removesuffix(located.files.suffix if located.files.is_file() else "")
        name = located.files.absolute().parent.name if located.files.suffix == ".json" else name  # an index of several
    name = re.sub(r"[^\w.]+", "-", name).strip("-.") or "model"
    options = request.options
    if located.classes == 0 and located.model is not None:
        options = dataclasses.replace(options, new_head=True)
    licence = request.licence or located.licence
    return dataclasses.replace(request, out=request.out or Path(name), licence=licence, options=options)


def with_found(request: ImportRequest, found: Identified) -> ImportRequest:
    """The request with what the file was found to be, where nothing else was typed."""
    typed = {key.replace("-", "_"): value for key, value in request.model.keys.items()}
    return dataclasses.replace(
        request,
        model=Choice(found.model.name, {**found.model.keys, **typed}),
        source=found.source.partition(":")[0],
        classes=found.classes if request.classes is None and not request.options.new_head else request.classes,
    )


def class_names(request: ImportRequest, chosen: MatchedTensors, left_out: str = "") -> tuple[str, ...]:
    """The classes: as requested, or as many as the head in the file has. left_out: why it is not read whole."""
    if isinstance(request.classes, tuple):
        if len(set(request.classes)) != len(request.classes) or not all(request.classes):
            raise UsageError("two classes have the same name, or one has none", "one name a class, each once")
        return request.classes
    count = validate(request.classes, Positive, "classes") if request.classes is not None else 0
    head = chosen.tensors.get("heads.0.weight")
    if not count and not request.options.new_head:
        if "label.weight" in chosen.tensors:
            raise denoiser_error(request.name, Names().model_config(request.model).channels)
        if head is None:
            raise CheckpointError(
                f"the file has no head (read as {chosen.source}{left_out and f'; {left_out}'})",
                "--new-head --classes 10 gives the model a new one",
            )
        count = head.shape[0] if head.ndim == 2 else 0
    return tuple(map(str, range(count or CLASSES)))


def explain_settings(request: ImportRequest, found: Identified, settings: dict[str, Any]) -> tuple[str, ...]:
    """What the file was found to be, and the keys of the model that its source decides, unless they were typed."""
    typed = {key.replace("-", "_") for key in request.model.keys}
    by_source = (k for k, v in settings.items() if k not in typed and found.model.keys.get(k) == v)
    return (*found.reasons, *(f"model.{key} = {settings[key]}: as {found.source} has it" for key in by_source))


def input_settings(request: ImportRequest, found: Identified, config: Any) -> tuple[InputConfig, tuple[str, ...]]:
    """The preprocessing, by what lies beside the file or by its source, and by the request. config: the model's."""
    usual = found.input
    mean, std = (adapt_channels(row or (), config.channels) for row in (usual.mean, usual.std))
    size = config.size if {"size", "patch"} & request.model.keys.keys() else usual.size
    given = dataclasses.replace(usual, size=size, channels=config.channels, mean=mean, std=std)
    for key in request.input:
        if key.replace("-", "_") in ("size", "channels"):
            raise UsageError(f"input.{key} is the model's own", f"use --model.{key}")
    given = override(Recipe(input=given), "input", request.input).input
    model.build_preprocess(given)
    settings = ", ".join(
        f"{key} {getattr(given, key)}" for key in ("mean", "std", "resize_mode", "crop_ratio", "interpolation")
    )
    typed = f", but {', '.join(request.input)} as given" if request.input else ""
    return given, (f"input: {settings}; {found.input_reason}{typed}",)


def adapt_channels(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Statistics of three channels for another number: their mean for one channel, else repeated in turn, as kernels
    are."""
    return (sum(values) / len(values),) if channels == 1 else tuple(values[i % len(values)] for i in range(channels))


def licence(request: ImportRequest) -> tuple[str, ...]:
    return () if request.licence else ("no licence is recorded; --licence TEXT saves one with the weights",)


def write_model(bundle: ModelBundle, request: ImportRequest, report: LoadReport, located: Located) -> Path:
    """Writes the folder that `vitrail.load` reads, with the origin of the weights in its header."""
    assert request.out is not None
    origin = {
        "source": report.source,
        **located.origin,
        "format": report.source,
        "sha256": report.sha256,
        "licence": request.licence,
        "fraction": round(report.fraction, 6),
    }
    return save_model(dataclasses.replace(bundle, origin=origin), request.out)
