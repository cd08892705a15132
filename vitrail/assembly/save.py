"""Saves a model that was created by name."""

from pathlib import Path

from torch import nn

from vitrail.assembly import model
from vitrail.assembly.resolve import Names
from vitrail.contracts import HeadedModel
from vitrail.errors import UsageError
from vitrail.recipe import Choice, InputConfig, Recipe
from vitrail.storage.atomic import write_folder
from vitrail.storage.tensors import pack
from vitrail.validation import as_path

NEUTRAL = 0.5  # mean and std of images without a data set: [0, 1] becomes [-1, 1], as in the original ViT


def save_model(
    net: nn.Module | model.ModelBundle, folder: str | Path, classes: tuple[str, ...] | list[str] | None = None
) -> Path:
    """Writes `folder`/model.safetensors and a manifest. Errors: `UsageError` where the folder exists or the model was not created by vitrail."""
    path = as_path(folder)
    if path.exists():
        raise UsageError(f"{path} is there already and is never overwritten", "choose another folder")
    bundle = net if isinstance(net, model.ModelBundle) else bundle_of(net, classes)
    state = dict(bundle.model.state_dict())
    try:
        write_folder(path, {"model.safetensors": pack(state, model.describe_bundle(bundle))})
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
    names = tuple(classes) if classes else tuple(map(str, range(count)))
    if len(names) != count:
        raise UsageError(f"{len(names)} class names for {count} classes", "give one name per class, or none")
    if len(set(names)) != count or not all(isinstance(name, str) and name for name in names):
        raise UsageError(
            f"class names must be distinct texts, not {', '.join(map(repr, names[:8]))}", "give distinct texts"
        )
    given = InputConfig(
        config.size, config.channels, (NEUTRAL,) * config.channels, (NEUTRAL,) * config.channels, "crop"
    )
    recipe = Recipe(model=net.origin, input=given, task=Choice("classification"))
    return model.ModelBundle(net, Names().task(recipe.task, count), recipe, names)
