"""Saving a model that was made by name."""

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

NEUTRAL = (
    0.5  # mean and std of images where no data set has been measured: [0, 1] becomes [-1, 1], as in the original ViT
)


def save_model(
    made: nn.Module | model.ModelBundle, folder: str | Path, classes: tuple[str, ...] | list[str] | None = None
) -> Path:
    """Writes `folder`/model.safetensors and a manifest. Errors: `UsageError` where the folder exists or the model is not ours."""
    path = as_path(folder)
    if path.exists():
        raise UsageError(f"{path} is there already and is never overwritten", "choose another folder")
    bundle = made if isinstance(made, model.ModelBundle) else describe(made, classes)
    state = dict(bundle.model.state_dict())
    try:
        write_folder(path, {"model.safetensors": pack(state, model.describe_bundle(bundle))})
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}", "choose another folder") from None
    return path


def describe(made: nn.Module, classes: tuple[str, ...] | list[str] | None) -> model.ModelBundle:
    if not isinstance(made, HeadedModel) or not isinstance(made.origin, Choice):
        raise UsageError(
            f"a {type(made).__name__} does not know its name",
            "save models that vitrail.create or vitrail.load returned",
        )
    config, count = made.backbone.config, made.classes
    names = tuple(classes) if classes else tuple(map(str, range(count)))
    if len(names) != count:
        raise UsageError(f"{len(names)} class names for {count} classes", "give one name per class, or none")
    if len(set(names)) != count or not all(isinstance(name, str) and name for name in names):
        raise UsageError(
            f"classes are told apart by their names, not by {', '.join(map(repr, names[:8]))}", "give distinct texts"
        )
    given = InputConfig(
        config.size, config.channels, (NEUTRAL,) * config.channels, (NEUTRAL,) * config.channels, "crop"
    )
    recipe = Recipe(model=made.origin, input=given, task=Choice("classification"))
    return model.ModelBundle(made, Names().task(recipe.task, count), recipe, names)
