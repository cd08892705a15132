"""Augmentation of training images, in two stages: per image where torchvision does it (crops, policies, jitter), and on
the whole batch where possible (shifts, flips, erasing): calls per image would cost a small model a fifth of its time.

Random numbers depend on (seed, epoch, image) only, so neither workers nor ranks nor resuming change a pixel.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vitrail.data.dataset import Split
from vitrail.data.sampling import Keys, derive_seed, uniform_numbers
from vitrail.data.transforms.base import Transform, load_at_once, load_each
from vitrail.data.transforms.preprocess import Preprocess, normalize, to_tensor
from vitrail.data.transforms.resize import resize_image, sample_crop

SHIFT_Y, SHIFT_X, FLIP, FLIP_VERTICAL, ERASE, ERASE_AREA, ERASE_RATIO, ERASE_Y, ERASE_X = range(9)

Policy = Literal["none", "autoaugment", "trivialaugment", "3-augment"]


@dataclass(frozen=True)
class Augmentation(Transform):
    """The `[augment]` settings of a recipe, followed by the preprocessing."""

    preprocess: Preprocess
    seed: int
    crop: str = "none"  # "none", "pad", "random"
    pad: int = 2
    scale: tuple[float, float] = (0.35, 1.0)
    hflip: bool = False
    vflip: bool = False
    randaugment_ops: int = 0
    magnitude: int = 9
    auto_augment: Policy = "none"  # instead of RandAugment
    color_jitter: float = 0.0  # brightness, contrast and saturation are multiplied by 1 - jitter to 1 + jitter
    random_erasing: float = 0.0

    @property
    def works_per_image(self) -> bool:
        return self.crop == "random" or self.has_color

    @property
    def has_color(self) -> bool:
        """Whether a colour augmentation is on, which is defined for grey and RGB images only."""
        return self.randaugment_ops > 0 or self.auto_augment != "none" or self.color_jitter > 0

    def load(self, split: Split, keys: Keys) -> tuple[Tensor, Tensor]:
        """uint8 [B C h w] and labels: the stage that runs in data workers."""
        at_once = (
            None if self.works_per_image else load_at_once(split, keys, self.preprocess.size, self.preprocess.channels)
        )
        return at_once or load_each(split, keys, self.image)

    def deterministic(self) -> Preprocess:
        return self.preprocess

    def image(self, pixels: np.ndarray, epoch: int, index: int) -> Tensor:
        """uint8 [H W C] -> uint8 [C h w]."""
        if not self.works_per_image:
            return self.preprocess.image(pixels)
        # training seeds itself at every step; torch.manual_seed would seed all devices too, which takes longer
        torch.default_generator.manual_seed(derive_seed(self.seed, epoch, index))
        if self.crop == "random":
            image = self.random_crop(to_tensor(pixels, self.preprocess.channels))
        else:
            image = self.preprocess.image(pixels)
        if self.has_color:
            for change in self.photometric_changes(image := image.contiguous()):
                image = change(image)
        return image

    def random_crop(self, image: Tensor) -> Tensor:
        """uint8 [C H W] -> uint8 [C h w]."""
        top, left, height, width = sample_crop((image.shape[1], image.shape[2]), self.scale)
        part = image[:, top : top + height, left : left + width]
        return resize_image(part, self.preprocess.size, self.preprocess.interpolation)

    def photometric_changes(self, image: Tensor) -> list[Callable[[Tensor], Tensor]]:
        """The photometric augmentations of an image of the model's size, in order."""
        from torchvision.transforms import v2

        transforms: list[Callable[[Tensor], Tensor]] = []
        if self.randaugment_ops:
            transforms.append(v2.RandAugment(self.randaugment_ops, self.magnitude))
        if self.auto_augment == "autoaugment":
            transforms.append(v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET))
        elif self.auto_augment == "trivialaugment":
            transforms.append(v2.TrivialAugmentWide())
        elif self.auto_augment == "3-augment":
            transforms.append(three_augment(image))
        if self.color_jitter:
            transforms.append(v2.ColorJitter(self.color_jitter, self.color_jitter, self.color_jitter))
        return transforms

    def batch(self, images: Tensor, keys: Keys | None = None) -> Tensor:
        """uint8 [B C h w] -> float32, augmented and normalised: the stage that runs where the model is."""
        shifted = images
        if keys is None:
            raise ValueError("the augmentation of an image depends on its key")
        if self.crop == "pad" and self.pad:
            shifted = shift_images(shifted, self.shifts(keys, SHIFT_Y), self.shifts(keys, SHIFT_X), self.pad)
        for is_on, purpose, axis in ((self.hflip, FLIP, 3), (self.vflip, FLIP_VERTICAL, 2)):
            if is_on:
                flipped = torch.from_numpy(uniform_numbers(self.seed, keys, purpose) < 0.5).to(shifted.device)
                shifted = torch.where(flipped[:, None, None, None], shifted.flip(axis), shifted)
        images = normalize(shifted, self.preprocess.mean, self.preprocess.std)
        return images.masked_fill(self.erase_rectangles(images, keys), 0.0) if self.random_erasing else images

    def shifts(self, keys: Keys, purpose: int) -> Tensor:
        """Shift of each image in pixels, 0 to twice the padding."""
        return torch.from_numpy((uniform_numbers(self.seed, keys, purpose) * (2 * self.pad + 1)).astype(np.int64))

    def erase_rectangles(self, images: Tensor, keys: Keys) -> Tensor:
        """Erased pixels, bool [B 1 h w]: one rectangle of 2 to 33 % of the area, ratio 0.3 to 3.3 (Zhong et al.
        2017)."""
        height, width = images.shape[2:]
        u = {p: uniform_numbers(self.seed, keys, p) for p in (ERASE, ERASE_AREA, ERASE_RATIO, ERASE_Y, ERASE_X)}
        area = (0.02 + u[ERASE_AREA] * 0.31) * height * width
        ratio = np.exp(np.log(0.3) + u[ERASE_RATIO] * (np.log(3.3) - np.log(0.3)))
        tall = np.minimum(np.sqrt(area * ratio), height).round()
        wide = np.where(u[ERASE] < self.random_erasing, np.minimum(np.sqrt(area / ratio), width).round(), 0)
        rows = random_offset(u[ERASE_Y], tall, height)
        columns = random_offset(u[ERASE_X], wide, width)
        return torch.from_numpy(rows[:, None, :, None] & columns[:, None, None, :]).to(images.device)


def three_augment(image: Tensor) -> Callable[[Tensor], Tensor]:
    """3-Augment for uint8 [C H W]: greyscale, solarize from 128 up, or blur (Touvron et al. 2022, "DeiT III", section
    3)."""
    from torchvision.transforms import v2

    return v2.RandomChoice([v2.Grayscale(image.shape[0]), v2.RandomSolarize(128, 1.0), blur])


def blur(image: Tensor) -> Tensor:
    """Gaussian blur by 0.1 to 2 pixels: rows, then columns; torchvision's 2-D kernel takes several times as long."""
    from torchvision.transforms.v2 import functional

    sigma = float(torch.empty(1).uniform_(0.1, 2.0))
    # borders are mirrored, so a kernel reaches no further than the image
    across, down = (2 * min(math.ceil(3 * sigma), side - 1) + 1 for side in (image.shape[2], image.shape[1]))
    rows = functional.gaussian_blur(image.float(), [across, 1], [sigma, sigma])
    return functional.gaussian_blur(rows, [1, down], [sigma, sigma]).round().to(torch.uint8)


def random_offset(position: np.ndarray, length: np.ndarray, whole: int) -> np.ndarray:
    """bool [B whole]: an interval of given length at a relative position in [0, 1)."""
    start = np.floor(position * (whole - length + 1))[:, None]
    index = np.arange(whole)[None]
    return (index >= start) & (index < start + length[:, None])


def shift_images(images: Tensor, down: Tensor, right: Tensor, pad: int) -> Tensor:
    """Shifts each image within a black border of `pad` pixels and crops it to its size."""
    b, _, height, width = images.shape
    wide = F.pad(images, (pad,) * 4)
    rows = (down[:, None] + torch.arange(height)).to(images.device)  # [B h]
    columns = (right[:, None] + torch.arange(width)).to(images.device)  # [B w]
    which = torch.arange(b, device=images.device)
    return wide.permute(0, 2, 3, 1)[which[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
