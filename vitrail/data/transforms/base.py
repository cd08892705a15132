"""The contract between the loader, which knows nothing of images, and what is done to them."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitrail.data.dataset import Split
from vitrail.data.sampling import Keys


class Transform(ABC):
    """From the images of a split to what a model takes, in two stages. It can be sent to a worker process."""

    @property
    @abstractmethod
    def works_per_image(self) -> bool:
        """Whether `load` does more to an image than `deterministic()` would: worth worker processes even for images in memory."""

    @abstractmethod
    def load(self, split: Split, keys: Keys) -> tuple[Tensor, Any]:
        """Where images are read: the images of some keys, uint8 [B C h w] or latents float32 [B c h w], and what is true of them: class
        indices [B], classes [B K], masks [B h w], `DetectionTargets`. Errors: `BadImage`, `DataError`."""

    @abstractmethod
    def batch(self, images: Tensor, keys: Keys | None = None) -> Tensor:
        """Where the model is: what `load` gave -> float32 [B C h w]. keys: of the images, for a transform with chance."""

    @abstractmethod
    def deterministic(self) -> "Transform":
        """The same without chance: what evaluation sees."""


def load_each(split: Split, keys: Keys, change: Callable[[Any, int, int], Tensor]) -> tuple[Tensor, Tensor]:
    """The images of some keys, changed one by one: change(pixels as read, epoch, index); and their labels."""
    images = [change(split.read(int(i)), int(e), int(i)) for e, i in zip(keys.epochs, keys.ids, strict=True)]
    return torch.stack(images), labels_of(split, keys)


def load_at_once(split: Split, keys: Keys, size: tuple[int, int], channels: int) -> tuple[Tensor, Tensor] | None:
    """The same out of an array in memory whose images are of a size already; None where there is no such array."""
    array = split.array
    if array is None or array.shape[1:] != (*size, channels):
        return None
    return torch.from_numpy(array[keys.ids].transpose(0, 3, 1, 2).copy()), labels_of(split, keys)


def labels_of(split: Split, keys: Keys) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(split.labels[keys.ids]))
