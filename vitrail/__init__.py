"""vitrail: Vision Transformers from pixels to a report.

>>> import vitrail
>>> model = vitrail.create("vit/nano", classes=10, channels=1)
>>> model(images).shape                    # images [B 1 28 28]
torch.Size([B, 10])

Nothing heavy is imported until it is used.
"""

from typing import TYPE_CHECKING, Any

from vitrail.version import __version__

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from vitrail.analysis.cost import Cost
    from vitrail.run.predict import Predictor

__all__ = ["__version__", "backbone", "cost", "create", "load", "models", "save"]


def models(family: str | None = None) -> list[str]:
    """The names of all models, or of one family, as "family/variant". Imports no family."""
    from vitrail import catalog

    return catalog.names("models", family)


def create(name: str, classes: int = 1000, **keys: Any) -> "nn.Module":
    """A classifier: images [B C H W] -> logits [B classes], freshly initialised.

    `keys` are the fields of the family's `Config`, such as size=(224, 224), channels=3, patch=16, depth=12;
    `vitrail models vit/base` lists them. Errors: `UsageError` (a ValueError) that names the nearest known name or key.
    """
    from vitrail.run import model

    return model.create(name, classes, sized(keys))


def backbone(name: str, **keys: Any) -> "nn.Module":
    """A backbone: images [B C H W] -> `Features(summaries, maps)`. Keywords as in `create`."""
    from vitrail.recipe import Choice
    from vitrail.run import model

    return model.backbone(Choice(name, sized(keys)))


def sized(keys: dict[str, Any]) -> dict[str, Any]:
    """`size=224` is short for a square."""
    return {k: ((v, v) if k == "size" and isinstance(v, int) else v) for k, v in keys.items()}


def cost(model: "nn.Module", size: "tuple[int, int] | int | None" = None) -> "Cost":
    """Parameters, multiply-adds, bytes of attention and activations for one image of `size`, by default the model's own."""
    from vitrail.analysis.cost import cost as count

    return count(model, size)


def save(model: "nn.Module", folder: "str | Path", classes: "tuple[str, ...] | list[str] | None" = None) -> "Path":
    """Writes a model made by `create` as a folder with model.safetensors and a manifest. A folder that is there is refused."""
    from vitrail.run.keep import save as keep

    return keep(model, folder, classes)


def load(source: "str | Path", device: str = "cpu") -> "Predictor":
    """A trained model from a run, a model folder or a .safetensors file: `.model`, `.classes`, `.recipe`, `.predict(...)`."""
    from vitrail.run.predict import load as take

    return take(source, device)
