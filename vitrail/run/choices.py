"""What choosing needs to know of the data, and the recipe on its way from open to filled, with its reasons."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from vitrail.recipe import Recipe, override


class Coded(NamedTuple):
    """What an autoencoder makes of pictures: their channels, those of latents, and by how much these are smaller."""

    channels: int
    latents: int
    factor: int


@dataclass(frozen=True)
class Facts:
    """What the choices depend on. size: median (height, width); uniform: all pictures have it."""

    count: int
    size: tuple[int, int]
    uniform: bool
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mirrored: bool  # a mirror image is as good as the picture: not so for digits
    gpu: bool
    kind: str = "classes"  # what is true of a picture: its classes, a mask, or boxes
    classes: int = 0
    tile: int = 0  # pixels of the tiles that training pictures were cut into
    coded: Coded | None = None  # pictures are learned as latents


class Choices:
    """Fills what is open, section by section, and keeps the reasons."""

    def __init__(self, recipe: Recipe, facts: Facts):
        self.recipe, self.facts = recipe, facts
        self.reasons: list[str] = []

    def settle(self, section: str, key: str, value: Any, reason: str = "") -> None:
        """Takes `value` unless the user has said something; without a reason the choice goes unmentioned."""
        said = getattr(getattr(self.recipe, section), key)
        if said is not None and (key, said) != ("channels", 0):
            return
        self.recipe = override(self.recipe, section, {key: value})
        if reason:
            shown = "x".join(map(str, value)) if key == "size" else value
            self.reasons.append(f"{section}.{key} = {shown}: {reason}")
