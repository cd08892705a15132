"""Whole published models, head included, as recipes and as bundles: `vitrail import` and `--weights` take them so."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitrail.assembly.model import ModelBundle, assemble_model
from vitrail.errors import CheckpointError, UsageError
from vitrail.recipe import Choice, Recipe, override
from vitrail.storage.printable import shell_word
from vitrail.weights.load import LoadOptions, MatchedTensors, load_tensors
from vitrail.weights.read import RawWeights
from vitrail.weights.report import LoadReport
from vitrail.weights.sidecars import Sidecar
from vitrail.weights.whole import WholeModel, find_whole_model

COLOURS = 3  # channels of most images; a generative model of more is one of latents
DILATED = "dc5"  # part of the names of files whose tensors do not show that the last stage is dilated


def recognise_whole(raw: RawWeights, path: Path, sidecar: Sidecar, model: Choice) -> WholeModel | None:
    """The whole model in a file, with the keys that were typed; None where it is none. Errors: `CheckpointError`, also
    where a model of another family was typed."""
    if DILATED in path.name.lower() and "dilation" not in sidecar.config:
        sidecar = dataclasses.replace(sidecar, config={**sidecar.config, "dilation": True})
    found = find_whole_model(raw.tensors, sidecar, model)
    if found is None:
        return None
    family = found.model.name.partition("/")[0]
    if model.name and model.name.partition("/")[0] != family:
        raise CheckpointError(
            f"these are weights of {found.model.name} with the head of {found.task.name}, not of {model.name}",
            f"--model {found.model.name}, or leave --model out",
        )
    keys = {**found.model.keys, **{key.replace("-", "_"): value for key, value in model.keys.items()}}
    return found._replace(model=Choice(found.model.name, keys))


def recipe_of(whole: WholeModel) -> Recipe:
    """The recipe that assembles the model."""
    return Recipe(model=whole.model, input=whole.input, task=whole.task)


def as_own(whole: WholeModel, raw: RawWeights) -> RawWeights:
    """The file as if vitrail had written it: tensors by our names. Notes say what was not needed."""
    by_reason = sorted({(why, sum(w == why for w in whole.dropped.values())) for why in whole.dropped.values()})
    notes = (f"{count} tensors not needed: {why}" for why, count in by_reason)
    return RawWeights(whole.tensors, {}, raw.sha256, (*raw.notes, *notes))


def build_whole(
    whole: WholeModel, raw: RawWeights, keys: Mapping[str, Any], classes: tuple[str, ...] | int | None
) -> tuple[ModelBundle, LoadReport]:
    """The model of the file with its weights. keys: of `[input]`, that were typed; classes: their names, or their
    number. Errors: `CheckpointError`, `UsageError`."""
    given = len(classes) if isinstance(classes, tuple) else classes
    if given not in (None, len(whole.classes)):
        raise UsageError(
            f"the head of the file has {len(whole.classes)} classes, not {given}",
            "leave --classes out; vitrail train --weights FILE gives it a head for the classes of your data",
        )
    names = classes if isinstance(classes, tuple) else whole.classes
    recipe = override(recipe_of(whole), "input", dict(keys))
    bundle = dataclasses.replace(assemble_model(recipe, names), classes=names)
    own = as_own(whole, raw)
    chosen = MatchedTensors(whole.source, own.tensors, (), {}, own.notes)
    return bundle, load_tensors(bundle.model, own, chosen, LoadOptions())


def denoiser_error(name: str, channels: int) -> CheckpointError:
    """Weights of a generative model where a classifier is imported. name: as typed; channels: of what it denoises."""
    autoencoder = " --input.vae AUTOENCODER" if channels > COLOURS else ""
    return CheckpointError(
        "these are weights of a generative model, which is not imported: it has no classifier head",
        f"vitrail train --data FOLDER --weights {shell_word(name)}{autoencoder} goes on from them",
    )
