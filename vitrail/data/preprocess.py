"""From a picture to what a model takes: one function for training's evaluation, prediction and everything after it."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Preprocess:
    """Deterministic preprocessing; belongs to a trained model and is saved with it.

    size:    (height, width) in pixels.
    mean, std: per channel, of pixels in [0, 1].
    resize:  "stretch" to the size, or "crop": the shorter side to size / crop_ratio, then the centre.
    """

    size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: Literal["stretch", "crop"] = "stretch"
    crop_ratio: float = 0.875
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    background: tuple[int, int, int] = (255, 255, 255)

    def picture(self, pixels: np.ndarray) -> Tensor:
        """uint8 [H W C] of any size -> uint8 [C h w] of the model's size."""
        image = to_tensor(pixels, self.channels)
        if tuple(image.shape[1:]) == self.size:
            return image
        if self.resize == "stretch":
            return resized(image, self.size, self.interpolation)
        height, width = image.shape[1:]
        scale = max(self.size[0] / height, self.size[1] / width) / self.crop_ratio
        return centre(resized(image, (round(height * scale), round(width * scale)), self.interpolation), self.size)

    def batch(self, pictures: Tensor) -> Tensor:
        """uint8 [B C h w] -> float32, normalised, on the same device."""
        return normalise(pictures, self.mean, self.std)


def to_tensor(pixels: np.ndarray, channels: int) -> Tensor:
    """uint8 [H W C] -> uint8 [channels H W]; grey is repeated, colour is weighed into grey (ITU-R 601), alpha is dropped.

    Errors: `DataError` for any other change: nobody knows what the channels of a picture with five or more stand for.
    """
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    have = pixels.shape[2]
    if have != channels:
        if have == 1:
            pixels = np.repeat(pixels, channels, axis=2)
        elif channels == 1 and have in (3, 4):
            weighed = pixels[:, :, :3] @ np.array([0.299, 0.587, 0.114])
            pixels = np.rint(weighed).astype(np.uint8)[:, :, None]
        elif channels == 3 and have == 4:
            pixels = pixels[:, :, :3]
        else:
            from vitrail.errors import DataError

            raise DataError(f"a picture has {have} channels and the model takes {channels}", "train with --input.channels, or convert it")
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def resized(image: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as F

    return F.resize(image, list(size), InterpolationMode(interpolation), antialias=True)


def centre(image: Tensor, size: tuple[int, int]) -> Tensor:
    top, left = (image.shape[1] - size[0]) // 2, (image.shape[2] - size[1]) // 2
    return image[:, top : top + size[0], left : left + size[1]]


def normalise(pictures: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    shape = (1, -1, 1, 1)
    m = torch.tensor(mean, device=pictures.device).view(shape)
    s = torch.tensor(std, device=pictures.device).view(shape)
    return (pictures.float() / 255 - m) / s
