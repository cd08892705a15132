"""Models by name outside a run: created with published weights, and saved."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from vitrail import catalog
from vitrail.assembly import model, pretrained
from vitrail.assembly.resolve import Names
from vitrail.contracts import HeadedModel, trunk_of
from vitrail.errors import CheckpointError, UsageError
from vitrail.recipe import Choice, InitConfig, InputConfig, Recipe
from vitrail.storage.atomic import write_folder
from vitrail.storage.tensors import stream
from vitrail.validation import as_path
from vitrail.weights.remote.table import find_row

NEUTRAL = 0.5  # mean and std of images without a data set: [0, 1] becomes [-1, 1], as in the original ViT
CLASSES = 1000  # of a new head, by default


@dataclass(frozen=True)
class LoadedWeights:
    """What is kept of the weights that a model was created with: preprocessing, names of classes, origin."""

    input: InputConfig
    classes: tuple[str, ...] | None
    origin: Mapping[str, Any] = field(default_factory=dict)


def create_typed(
    name: str, weights: bool | str | Path, classes: int | None, keys: dict[str, Any], accept_licence: str
) -> nn.Module:
    """A model by a name that a person typed, with random weights or others. Errors: `UsageError`,
    `CheckpointError`."""
    catalog.import_typed(name)
    if weights:
        return create_with_weights(name, weights, classes, keys, accept_licence)
    return model.create_model(name, CLASSES if classes is None else classes, keys)


def backbone_typed(name: str, weights: bool | str | Path, keys: dict[str, Any], accept_licence: str) -> nn.Module:
    """The same without a head."""
    catalog.import_typed(name)
    return backbone_with_weights(name, weights, keys, accept_licence) if weights else model.create_backbone(name, keys)


def create_with_weights(
    name: str, weights: bool | str | Path, classes: int | None, keys: dict[str, Any], accept_licence: str = ""
) -> nn.Module:
    """A model by name with weights: True for those that are recommended for it, or their name. classes: None for those
    of the weights; another number gives it a new head. Positions and patches are resampled where `keys` ask for other
    ones. Errors: `UsageError`, `CheckpointError`."""
    start = InitConfig(choose_weights(name, weights), accept_licence=accept_licence)
    origin = pretrained.find_weights(start, Choice(name, keys))
    assert origin is not None
    if origin.identified is not None:
        theirs, given, outputs = origin.identified.model, origin.identified.input, origin.identified.outputs
    else:
        assert origin.recipe is not None
        theirs, given, outputs = origin.recipe.model, origin.recipe.input, len(origin.classes or ())
    if theirs.name != name:
        raise CheckpointError(
            f"these are weights of {theirs.name}, not of {name}: {origin.name}",
            f"vitrail.create({theirs.name!r}, weights=...)",
        )
    keys = {**{key: v for key, v in theirs.keys.items() if key != "classes"}, **keys}
    count = classes if classes is not None else outputs or CLASSES
    names = origin.classes if origin.classes and len(origin.classes) == count else tuple(map(str, range(count)))
    net = model.create_model(name, count, keys)
    recipe = Recipe(model=Choice(name, keys), input=given, task=Choice("classification"))
    bundle = model.ModelBundle(net, Names().task(recipe.task, count), recipe, names)
    pretrained.load_origin(bundle, origin, InitConfig())
    if isinstance(net, HeadedModel):
        net.loaded = LoadedWeights(given, names, origin.about)
    return net


def backbone_with_weights(
    name: str, weights: bool | str | Path, keys: dict[str, Any], accept_licence: str
) -> nn.Module:
    """The same without its head."""
    return trunk_of(create_with_weights(name, weights, None, keys, accept_licence))


def choose_weights(name: str, weights: bool | str | Path) -> str:
    """The name of the weights that were asked for. Errors: `UsageError` where there are none for a model."""
    if isinstance(weights, bool):
        row = find_row(name) if weights else None
        if row is None or row.model != name:
            family = name.partition("/")[0]
            raise UsageError(
                f"no weights of {name} are published under its name",
                f"vitrail weights {family} lists them; weights=NAME",
            )
        return row.name
    tagged = find_row(f"{name}:{weights}")
    return tagged.name if tagged else str(weights)


def save_model(
    net: nn.Module | model.ModelBundle, folder: str | Path, classes: tuple[str, ...] | list[str] | None = None
) -> Path:
    """Writes `folder`/model.safetensors and a manifest. Errors: `UsageError` where the folder exists or the model was
    not created by vitrail."""
    path = as_path(folder)
    if path.exists():
        raise UsageError(f"{path} is there already and is never overwritten", "choose another folder")
    bundle = net if isinstance(net, model.ModelBundle) else bundle_of(net, classes)
    state = dict(bundle.model.state_dict())
    try:
        write_folder(path, {"model.safetensors": stream(state, model.describe_bundle(bundle))})
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}", "choose another folder") from None
    return path


def bundle_of(net: nn.Module, classes: tuple[str, ...] | list[str] | None) -> model.ModelBundle:
    if not isinstance(net, HeadedModel) or not isinstance(net.origin, Choice):
        raise UsageError(
            f"a {type(net).__name__} was not created by name",
            "save models that vitrail.create or vitrail.load returned",
        )
    config, count = net.backbone.config, net.classes
    loaded = net.loaded if isinstance(net.loaded, LoadedWeights) else None
    known = loaded.classes if loaded and loaded.classes and len(loaded.classes) == count else None
    names = tuple(classes) if classes else known or tuple(map(str, range(count)))
    if len(names) != count:
        raise UsageError(f"{len(names)} class names for {count} classes", "give one name per class, or none")
    if len(set(names)) != count or not all(isinstance(name, str) and name for name in names):
        raise UsageError(
            f"class names must be distinct texts, not {', '.join(map(repr, names[:8]))}", "give distinct texts"
        )
    given = InputConfig(
        config.size, config.channels, (NEUTRAL,) * config.channels, (NEUTRAL,) * config.channels, "crop"
    )
    if loaded and len(loaded.input.mean or ()) == config.channels:
        given = dataclasses.replace(loaded.input, size=config.size, channels=config.channels)
    recipe = Recipe(model=net.origin, input=given, task=Choice("classification"))
    bundle = model.ModelBundle(net, Names().task(recipe.task, count), recipe, names)
    return dataclasses.replace(bundle, origin=loaded.origin) if loaded else bundle
