"""From an image to the input of a model: the same code for evaluation, prediction and export."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vitrail.data.dataset import Split
from vitrail.data.sampling import Keys
from vitrail.data.transforms.base import Transform, load_at_once, load_each
from vitrail.data.transforms.resize import resize_image

LARGEST = 64_000_000  # pixels of a resized image cut into windows: a very narrow image would grow without limit
CACHED = 2**17  # values that are normalised at a time
ResizeMode = Literal["stretch", "crop", "fit", "slide", "tile"]


class Window(NamedTuple):
    """A crop of an image on a canvas of the model's size: at the top left, with padding below and to the right."""

    image: Tensor  # uint8 [C h w]
    top: int  # position of the canvas in the resized image
    left: int
    size: tuple[int, int]  # (height, width) without padding


@dataclass(frozen=True)
class Preprocess(Transform):
    """Deterministic preprocessing; part of a trained model and saved with it.

    size:    (height, width) in pixels.
    mean, std: per channel, of pixels in [0, 1].
    resize_mode: "stretch" to the size; "crop": the shorter side to size / crop_ratio, then a centre crop; "fit": the
             whole image in its aspect ratio, padded below and to the right. For masks and boxes also "slide": resized
             to cover the size, in overlapping windows; "tile": in original pixels, in overlapping windows.

    Padding has the mean colour, so that it is 0 (within half a level) after normalisation.
    """

    size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize_mode: ResizeMode = "stretch"
    crop_ratio: float = 0.875
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    background: tuple[int, int, int] = (255, 255, 255)

    @property
    def works_per_image(self) -> bool:
        return False

    def load(self, split: Split, keys: Keys) -> tuple[Tensor, Tensor]:
        """uint8 [B C h w] and labels."""
        at_once = load_at_once(split, keys, self.size, self.channels)
        return at_once or load_each(split, keys, lambda pixels, epoch, index: self.image(pixels))

    def deterministic(self) -> "Preprocess":
        return self

    def image(self, pixels: np.ndarray) -> Tensor:
        """uint8 [H W C] of any size -> uint8 [C h w] of the model's size."""
        image = to_tensor(pixels, self.channels)
        if tuple(image.shape[1:]) == self.size:
            return image
        if self.resize_mode == "stretch":
            return resize_image(image, self.size, self.interpolation)
        if self.resize_mode != "crop":
            return self.windows(pixels)[0].image
        height, width = image.shape[1:]
        scale = max(self.size[0] / height, self.size[1] / width) / self.crop_ratio
        size = round(height * scale), round(width * scale)
        refuse_enlarged((height, width), size)
        return center_crop(resize_image(image, size, self.interpolation), self.size)

    def scaled_size(self, height: int, width: int) -> tuple[int, int]:
        """The size of the whole image before it is cut into windows."""
        ratios = self.size[0] / height, self.size[1] / width
        if self.resize_mode == "stretch":
            return self.size
        scale = {"fit": min(ratios), "slide": max(ratios)}.get(self.resize_mode, 1.0)
        return max(1, round(height * scale)), max(1, round(width * scale))

    def windows(self, pixels: np.ndarray, overlap: float = 1 / 3) -> list[Window]:
        """uint8 [H W C] -> all of it in one window, or in several that overlap by a share of their size."""
        image = to_tensor(pixels, self.channels)
        size = self.scaled_size(*image.shape[1:])
        refuse_enlarged((image.shape[1], image.shape[2]), size)
        image = pad_image(
            image if tuple(image.shape[1:]) == size else resize_image(image, size, self.interpolation),
            self.size,
            self.padding_color,
        )
        tops, lefts = (window_starts(size[i], self.size[i], overlap) for i in (0, 1))
        height, width = self.size
        return [
            Window(image[:, y : y + height, x : x + width], y, x, (min(height, size[0] - y), min(width, size[1] - x)))
            for y in tops for x in lefts
        ]  # fmt: skip

    @property
    def padding_color(self) -> tuple[int, ...]:
        """The colour of padding."""
        return tuple(round(255 * m) for m in self.mean)

    def batch(self, images: Tensor, keys: Keys | None = None) -> Tensor:
        """uint8 [B C h w] -> float32, normalised, on the same device."""
        return normalize(images, self.mean, self.std)


def refuse_enlarged(before: tuple[int, int], size: tuple[int, int]) -> None:
    """Errors: `BadImage` for an image that would grow beyond `LARGEST` pixels."""
    if size[0] * size[1] > LARGEST:
        from vitrail.errors import BadImage

        raise BadImage(
            f"an image of {before[0]} x {before[1]} (height x width) would be resized to {size[0]} x {size[1]}",
            "remove it, or --input.resize-mode fit",
        )


def to_tensor(pixels: np.ndarray, channels: int) -> Tensor:
    """uint8 [H W C] -> uint8 [channels H W], a view where it can be: channels stay interleaved, which resizing takes
    half the time for. Grey is repeated, colour converted to grey (ITU-R 601), alpha dropped.

    Errors: `DataError` for any other conversion: the meaning of five or more channels is unknown.
    """
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    have = pixels.shape[2]
    if have != channels:
        if have == 1:
            pixels = np.repeat(pixels, channels, axis=2)
        elif channels == 1 and have in (3, 4):
            grey = pixels[:, :, :3] @ np.array([0.299, 0.587, 0.114])
            pixels = np.rint(grey).astype(np.uint8)[:, :, None]
        elif channels == 3 and have == 4:
            pixels = pixels[:, :, :3]
        else:
            from vitrail.errors import DataError

            raise DataError(
                f"an image has {have} channels and the model takes {channels}",
                "train with --input.channels, or convert it",
            )
    return torch.from_numpy(np.require(pixels, requirements=["C", "W"])).permute(2, 0, 1)


def pad_image(image: Tensor, size: tuple[int, int], fill: tuple[int, ...]) -> Tensor:
    """Pads uint8 [C H W] below and to the right to at least `size`."""
    height, width = (max(a, b) for a, b in zip(image.shape[1:], size, strict=True))
    if (height, width) == tuple(image.shape[1:]):
        return image
    canvas = torch.tensor(fill, dtype=torch.uint8)[:, None, None].expand(-1, height, width).clone()
    canvas[:, : image.shape[1], : image.shape[2]] = image
    return canvas


def window_starts(length: int, window: int, overlap: float) -> list[int]:
    """Starts of evenly spaced windows that cover a length, overlapping by at least that share of a window."""
    if length <= window:
        return [0]
    count = math.ceil((length - window) / max(1, window * (1 - overlap))) + 1
    return [round(i * (length - window) / (count - 1)) for i in range(count)]


def center_crop(image: Tensor, size: tuple[int, int]) -> Tensor:
    top, left = (image.shape[1] - size[0]) // 2, (image.shape[2] - size[1]) // 2
    return image[:, top : top + size[0], left : left + size[1]]


def normalize(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 [B C h w] -> float32, each channel less its mean over its deviation; on a CPU some images at a time, which
    stay in its cache."""
    out = torch.empty_like(images, dtype=torch.float32, memory_format=torch.contiguous_format)
    offset, scale = as_channels(mean, images), as_channels(std, images)
    step = max(1, CACHED // max(1, images[:1].numel())) if images.device.type == "cpu" else max(1, len(images))
    for part, normalized in zip(images.split(step), out.split(step), strict=True):
        normalized.copy_(part).div_(255).sub_(offset).div_(scale)
    return out


def as_channels(values: tuple[float, ...], images: Tensor) -> Tensor:
    """float32 [C 1 1] on the device of the images, to broadcast over pixels."""
    return torch.tensor(values, device=images.device)[:, None, None]
