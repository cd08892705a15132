"""What choosing needs to know of the data, and the recipe on its way from open to filled, with its reasons."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from vitrail.recipe import Choice, Recipe, override


class LatentShape(NamedTuple):
    """What an autoencoder makes of images: their channels, those of latents, and by how much these are smaller."""

    channels: int
    latents: int
    factor: int


@dataclass(frozen=True)
class Facts:
    """What the choices depend on. size: median (height, width); uniform: all images have it."""

    count: int
    size: tuple[int, int]
    uniform: bool
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    is_mirrorable: bool  # a mirror image is as good as the image: not so for digits
    gpu: bool
    classes: int = 0
    tile: int = 0  # pixels of the tiles that training images were cut into
    latent_shape: LatentShape | None = None  # images are learned as latents


class Choices:
    """Fills what is open, section by section, and keeps the reasons. `config_of` a model by name and keys, as the catalogue has it."""

    def __init__(self, recipe: Recipe, facts: Facts, config_of: Callable[[Choice], Any]):
        self.recipe, self.facts, self.config_of = recipe, facts, config_of
        self.reasons: list[str] = []

    @property
    def model_config(self) -> Any:
        """Of the model that the recipe names, with its keys."""
        return self.config_of(self.recipe.model)

    def set_default(self, section: str, key: str, value: Any, reason: str = "") -> None:
        """Takes `value` unless the user has said something; without a reason the choice goes unmentioned."""
        said = getattr(getattr(self.recipe, section), key)
        if said is not None and (key, said) != ("channels", 0):
            return
        self.recipe = override(self.recipe, section, {key: value})
        if reason:
            shown = "x".join(map(str, value)) if key == "size" else value
            self.reasons.append(f"{section}.{key} = {shown}: {reason}")

    def set_key(self, section: str, key: str, value: Any, reason: str) -> None:
        """The same for a key of the model or the task, which is open where the recipe does not have it."""
        if key not in getattr(self.recipe, section).keys:
            self.recipe = override(self.recipe, section, {key: value})
            shown = ", ".join(map(str, value)) if key == "map_depths" else value
            self.reasons.append(f"{section}.{key} = {shown}: {reason}")

    def set_model(self, name: str, reason: str) -> None:
        """The model where none is named."""
        if not self.recipe.model.name:
            self.recipe = override(self.recipe, "model", {"name": name})
            self.reasons.append(f"model = {name}: {reason}")


def check_absent(settings: dict[str, bool], why: str) -> None:
    """Errors: `UsageError` for the first of the settings, by how it is written, that is there; `why` follows its name."""
    from vitrail.errors import UsageError

    for name in (name for name, there in settings.items() if there):
        raise UsageError(f"{name} {why}", "leave it out")
