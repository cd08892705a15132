"""The facts about the data that defaults depend on, and a recipe whose defaults are being chosen, with the reasons."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from vitrail.recipe import Choice, Recipe, override


class LatentShape(NamedTuple):
    """The shape of an autoencoder: channels of images, channels of latents, downsampling factor."""

    channels: int
    latents: int
    factor: int


@dataclass(frozen=True)
class Facts:
    """What the defaults depend on. size: median (height, width); uniform: all images have it."""

    count: int
    size: tuple[int, int]
    uniform: bool
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    is_mirrorable: bool  # whether horizontal flips keep the class: not so for digits, left and right
    gpu: bool
    classes: int = 0
    objects: int = 0  # boxes of all training images
    object_side: float = 0.0  # the median root of their areas, in pixels of the images
    object_overlap: float | None = None  # 99 of 100 overlap less (IoU) with any other of their class
    tile: int = 0  # pixels of the tiles that training images were cut into
    is_new_head: bool = False  # whether initial weights are for other classes
    takes_features: bool = False  # whether the task learns from features of a frozen backbone as from images
    measured: int = 0  # training images that the sizes, mean and std are of; 0: all
    latent_shape: LatentShape | None = None  # of the autoencoder, where the model learns latents
    captions: Iterable[str] = ()  # of the training images, read where they are asked for


class Choices:
    """Chooses the defaults of a recipe, section by section, and keeps the reasons. `config_of`: the config of a model
    by name and keys."""

    def __init__(self, recipe: Recipe, facts: Facts, config_of: Callable[[Choice], Any]):
        self.recipe, self.facts, self.config_of = recipe, facts, config_of
        self.reasons: list[str] = []

    @property
    def model_config(self) -> Any:
        """The config of the recipe's model, with its keys."""
        return self.config_of(self.recipe.model)

    def set_default(self, section: str, key: str, value: Any, reason: str = "") -> None:
        """Sets `value` unless the user has set one; without a reason the choice is not printed."""
        given = getattr(getattr(self.recipe, section), key)
        if given is not None and (key, given) != ("channels", 0):
            return
        self.recipe = override(self.recipe, section, {key: value})
        if reason:
            text = "x".join(map(str, value)) if key == "size" else value
            self.reasons.append(f"{section}.{key} = {text}: {reason}")

    def set_key(self, section: str, key: str, value: Any, reason: str) -> None:
        """The same for a key of the model or the task, where the recipe does not have it."""
        if key not in getattr(self.recipe, section).keys:
            self.recipe = override(self.recipe, section, {key: value})
            text = ", ".join(map(str, value)) if key == "map_depths" else value
            self.reasons.append(f"{section}.{key} = {text}: {reason}")

    def set_model(self, name: str, reason: str) -> None:
        """Sets the model where none is named."""
        if not self.recipe.model.name:
            self.recipe = override(self.recipe, "model", {"name": name})
            self.reasons.append(f"model = {name}: {reason}")


class Defaults(ABC):
    """The defaults that a task chooses for a recipe, each with its reason, and the settings that it rejects."""

    max_epochs: float
    least_epochs: float = 10
    published: tuple[str, str] = ("", "")  # weights that few images gain from, by name: on a CPU and on a GPU

    @abstractmethod
    def choose_input(self, c: Choices) -> None:
        """Size, channels, and how images are resized."""

    @abstractmethod
    def choose_model(self, c: Choices) -> None:
        """The model, and keys of the model and of the task."""

    @abstractmethod
    def choose_optimizer(self, c: Choices) -> None:
        """Settings other than `vitrail.recipe.DEFAULTS`; the number of steps is known by now."""

    @abstractmethod
    def choose_augmentation(self, c: Choices) -> None: ...

    @abstractmethod
    def images_shown(self, gpu: bool) -> int:
        """How many images a training from scratch should see, repetitions included."""

    @abstractmethod
    def peak_lr(self, recipe: Recipe, model_config: Any) -> float:
        """The peak learning rate of AdamW at the recipe's batch, for random weights."""

    @abstractmethod
    def check(self, recipe: Recipe) -> None:
        """Errors: `UsageError` for settings that do not fit such annotations or such a model."""


def check_absent(settings: dict[str, bool], why: str) -> None:
    """Errors: `UsageError` for the first of the settings, by its full name, that is set; `why` follows the name."""
    from vitrail.errors import UsageError

    for name in (name for name, is_set in settings.items() if is_set):
        raise UsageError(f"{name} {why}", "leave it out")
