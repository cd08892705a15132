"""The interface between the loader, which knows nothing of images, and their transforms."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitrail.data.dataset import Split
from vitrail.data.sampling import Keys


class Transform(ABC):
    """From the images of a split to the input of a model, in two stages. Picklable, for workers."""

    views = 1.0  # images at the model's size that training makes of one; smaller ones count by their area

    @property
    @abstractmethod
    def works_per_image(self) -> bool:
        """Whether `load` works more on an image than `deterministic()`: then workers pay off even in memory."""

    @abstractmethod
    def load(self, split: Split, keys: Keys) -> tuple[Any, Any]:
        """Runs in workers: the images of given keys, uint8 [B C h w], latents float32 [B c h w] or `Views`, and their
        labels: class indices [B], classes [B K], masks [B h w] or `DetectionTargets`. Errors: `BadImage`,
        `DataError`."""

    @abstractmethod
    def batch(self, images: Any, keys: Keys | None = None) -> Any:
        """Runs on the model's device: images as `load` gives them -> float32 of the same shape. keys: for a random
        transform."""

    @abstractmethod
    def deterministic(self) -> "Transform":
        """The transform without randomness, for evaluation."""


def load_each(split: Split, keys: Keys, change: Callable[[Any, int, int], Tensor]) -> tuple[Tensor, Tensor]:
    """The images of given keys, each transformed by change(pixels as read, epoch, index), and their labels."""
    images = [change(split.read(int(i)), int(e), int(i)) for e, i in zip(keys.epochs, keys.ids, strict=True)]
    return torch.stack(images).contiguous(), labels_of(split, keys)


def load_at_once(split: Split, keys: Keys, size: tuple[int, int], channels: int) -> tuple[Tensor, Tensor] | None:
    """Likewise from an array in memory whose images already have the size; None without such an array."""
    array = split.array
    if array is None or array.shape[1:] != (*size, channels):
        return None
    return torch.from_numpy(array[keys.ids].transpose(0, 3, 1, 2).copy()), labels_of(split, keys)


def labels_of(split: Split, keys: Keys) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(split.labels[keys.ids]))
