"""Multi-crop: several random crops of every image, for learning without labels (Caron et al. 2020, section 3.2,
arxiv.org/abs/2006.09882; colours, blur and solarization as in BYOL and DINO).

The crops are cut where images are read; colours are changed for the whole batch on the model's device. Both are
functions of (seed, epoch, image, view), so neither workers nor processes nor resuming change a pixel.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vitrail.data.dataset import Split
from vitrail.data.sampling import Keys, derive_seed, uniform_numbers
from vitrail.data.transforms.base import Transform, labels_of
from vitrail.data.transforms.color import LUMA
from vitrail.data.transforms.preprocess import Preprocess, as_channels, to_tensor
from vitrail.data.transforms.resize import resize_image, sample_crop
from vitrail.types import Views

PURPOSES, KINDS = 1 << 20, 16  # the first purpose of random numbers, and how many a view has
FLIP, FLIP_VERTICAL, JITTER, BRIGHTNESS, CONTRAST, SATURATION, HUE, GREY, BLUR, SIGMA, SOLARIZE = range(11)
JITTER_SHARE = 0.8  # of the views have their colours changed
SIGMAS = (0.1 / 224, 2.0 / 224)  # of the blur, as fractions of the side of a global crop
YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))  # brightness, and a plane of hues


@dataclass(frozen=True)
class MultiCrop(Transform):
    """Global crops at the model's size and smaller local ones, with colours of their own.

    global_scale, local_scale: the area of a crop as a fraction of the image. color_jitter: brightness and contrast are
    multiplied by 1 - jitter to 1 + jitter, saturation by half and hue turned by a quarter as much of a full turn, in
    0.8 of the views. grayscale: the probability of a view without colour. blur, solarize: probabilities, one for every
    view, the global ones first.
    """

    preprocess: Preprocess
    seed: int
    global_crops: int
    local_crops: int
    local_size: tuple[int, int]
    global_scale: tuple[float, float]
    local_scale: tuple[float, float]
    hflip: bool
    vflip: bool
    color_jitter: float
    grayscale: float
    blur: tuple[float, ...]
    solarize: tuple[float, ...]

    @property
    def works_per_image(self) -> bool:
        return True

    @property
    def views(self) -> float:  # type: ignore[override]
        """Local crops count by their area."""
        (height, width), (tall, wide) = self.preprocess.size, self.local_size
        return self.global_crops + self.local_crops * tall * wide / (height * width)

    def load(self, split: Split, keys: Keys) -> tuple[Views, Tensor]:
        """uint8 `Views` and labels: the stage that runs in data workers."""
        images = [self.image(split.read(int(i)), int(e), int(i)) for e, i in zip(keys.epochs, keys.ids, strict=True)]
        return Views(*map(torch.stack, zip(*images, strict=True))), labels_of(split, keys)

    def image(self, pixels: np.ndarray, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        """uint8 [H W C] -> uint8 [G C h w] and [L C h w]."""
        torch.default_generator.manual_seed(derive_seed(self.seed, epoch, index))
        image = to_tensor(pixels, self.preprocess.channels)
        return (
            self.cut(image, self.global_crops, self.global_scale, self.preprocess.size),
            self.cut(image, self.local_crops, self.local_scale, self.local_size),
        )

    def cut(self, image: Tensor, count: int, scale: tuple[float, float], size: tuple[int, int]) -> Tensor:
        crops = torch.empty(count, len(image), *size, dtype=torch.uint8)
        for crop in crops:
            top, left, height, width = sample_crop((image.shape[1], image.shape[2]), scale)
            part = image[:, top : top + height, left : left + width]
            crop.copy_(resize_image(part, size, self.preprocess.interpolation))
        return crops

    def deterministic(self) -> Preprocess:
        return self.preprocess

    def batch(self, images: Views, keys: Keys | None = None) -> Views:
        """uint8 -> float32, with changed colours and normalised: the stage that runs where the model is."""
        if keys is None:
            raise ValueError("the augmentation of an image depends on its key")
        return Views(
            self.change_views(images.global_crops, keys, 0),
            self.change_views(images.local_crops, keys, self.global_crops),
        )

    def change_views(self, crops: Tensor, keys: Keys, first: int) -> Tensor:
        """uint8 [B V C h w] -> float32; `first`: the number of the first view among all."""
        count, views = crops.shape[:2]
        if not crops.numel():
            return crops.float()
        own = range(first, first + views)
        draws = ViewNumbers(self.seed, keys, own, crops.device)
        pixels = crops.flatten(0, 1).float() / 255  # [B V, C h w]
        for is_on, purpose, axis in ((self.hflip, FLIP, 3), (self.vflip, FLIP_VERTICAL, 2)):
            if is_on:
                pixels = torch.where(draws.chance(purpose, 0.5)[:, None, None, None], pixels.flip(axis), pixels)
        if self.color_jitter or self.grayscale:
            pixels = self.change_colors(pixels, draws)
        if any(self.blur[v] for v in own):
            low, high = (max(self.preprocess.size) * fraction for fraction in SIGMAS)
            blurred = blur_images(pixels, low + (high - low) * draws.uniform(SIGMA))
            pixels = torch.where(draws.chances(BLUR, self.blur)[:, None, None, None], blurred, pixels)
        if any(self.solarize[v] for v in own):
            inverted = torch.where(pixels >= 0.5, 1 - pixels, pixels)
            pixels = torch.where(draws.chances(SOLARIZE, self.solarize)[:, None, None, None], inverted, pixels)
        mean, std = (as_channels(values, pixels) for values in (self.preprocess.mean, self.preprocess.std))
        return ((pixels - mean) / std).unflatten(0, (count, views))

    def change_colors(self, pixels: Tensor, draws: "ViewNumbers") -> Tensor:
        """Brightness, contrast, saturation and hue in this order, one product: each is linear. Hue turns colours about
        the axis of greys. Of other than three channels only brightness and contrast change."""
        channels = pixels.shape[1]
        luma = torch.tensor(LUMA if channels == len(LUMA) else [1 / channels] * channels, device=pixels.device)
        is_changed = draws.chance(JITTER, JITTER_SHARE)

        def factor(purpose: int, strength: float) -> Tensor:
            value = 1 + strength * (2 * draws.uniform(purpose) - 1)
            return torch.where(is_changed, value, 1.0)[:, None, None]

        bright, contrast = factor(BRIGHTNESS, self.color_jitter), factor(CONTRAST, self.color_jitter)
        eye = torch.eye(channels, device=pixels.device)
        means = pixels.flatten(2).mean(2, keepdim=True)  # [B V, C 1]
        matrix = (bright * contrast) * eye
        offset = (1 - contrast) * bright * (luma @ means)[:, None]
        if channels == len(LUMA):
            grey = luma.expand(3, 3)
            saturation = factor(SATURATION, self.color_jitter / 2)
            colors = turn_hues(self.color_jitter / 4 * (factor(HUE, 1.0) - 1)) @ (
                saturation * eye + (1 - saturation) * grey
            )
            colors = torch.where(draws.chance(GREY, self.grayscale)[:, None, None], grey @ colors, colors)
            matrix, offset = colors @ matrix, colors @ offset.expand(-1, 3, 1)
        return (torch.baddbmm(offset, matrix, pixels.flatten(2))).clamp_(0, 1).view_as(pixels)


@dataclass(frozen=True)
class ViewNumbers:
    """Random numbers of the views of a batch, [B V] in one row each: a function of (seed, epoch, image, view)."""

    seed: int
    keys: Keys
    views: range
    device: torch.device

    def uniform(self, purpose: int) -> Tensor:
        """float32 [B V] in [0, 1)."""
        rows = [uniform_numbers(self.seed, self.keys, PURPOSES + KINDS * view + purpose) for view in self.views]
        return torch.from_numpy(np.stack(rows, 1).astype(np.float32).ravel()).to(self.device)

    def chance(self, purpose: int, probability: float) -> Tensor:
        """bool [B V]."""
        return self.uniform(purpose) < probability

    def chances(self, purpose: int, probabilities: tuple[float, ...]) -> Tensor:
        """The same with a probability for every view of all."""
        own = torch.tensor([probabilities[view] for view in self.views], device=self.device)
        return self.uniform(purpose) < own.repeat(len(self.keys.ids))


def turn_hues(turns: Tensor) -> Tensor:
    """[N 1 1] parts of a full turn -> [N 3 3] that turns colours about the axis of greys, of the same brightness."""
    angle = (2 * np.pi * turns)[:, 0, 0]
    cos, sin = angle.cos(), angle.sin()
    one, none = torch.ones_like(cos), torch.zeros_like(cos)
    turned = torch.stack([one, none, none, none, cos, -sin, none, sin, cos], 1).view(-1, 3, 3)
    basis = torch.tensor(YIQ, device=turns.device)
    return torch.linalg.inv(basis) @ turned @ basis


def blur_images(images: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of [N C h w] by sigma [N] pixels, as two products with band matrices; at the borders the part of
    the kernel inside the image counts."""

    def kernel(side: int) -> Tensor:
        distance = torch.arange(side, device=images.device)[:, None] - torch.arange(side, device=images.device)
        weights = torch.exp(-(distance**2) / (2 * sigma[:, None, None] ** 2))
        return weights / weights.sum(2, keepdim=True)

    rows, columns = kernel(images.shape[2])[:, None], kernel(images.shape[3])[:, None]
    return rows @ images @ columns.transpose(2, 3)
