"""What training does to pictures. Two stages: picture by picture where torchvision does it (crops, RandAugment), and the whole
batch at once where that is enough (shifts, flips, erasing), since a call per picture would cost a small model a fifth of its time.

Every chance comes from (seed, epoch, picture) alone, so neither workers nor processes nor resuming change a pixel.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vitrail.data.preprocess import Preprocess, normalise, to_tensor
from vitrail.data.sampling import Keys, chance, seed_of

SHIFT_Y, SHIFT_X, FLIP, FLIP_VERTICAL, ERASE, ERASE_AREA, ERASE_RATIO, ERASE_Y, ERASE_X = range(9)


@dataclass(frozen=True)
class Augmentation:
    """Everything `augment` in a recipe says, plus the preprocessing it ends in."""

    preprocess: Preprocess
    seed: int
    crop: str = "none"  # "none", "pad", "random"
    pad: int = 2
    scale: tuple[float, float] = (0.35, 1.0)
    flip: bool = False
    flip_vertical: bool = False
    randaugment: int = 0
    magnitude: int = 9
    erase: float = 0.0

    @property
    def per_picture(self) -> bool:
        return self.crop == "random" or self.randaugment > 0

    def picture(self, pixels: np.ndarray, epoch: int, index: int) -> Tensor:
        """uint8 [H W C] -> uint8 [C h w]: the stage that runs in data workers."""
        if not self.per_picture:
            return self.preprocess.picture(pixels)
        torch.manual_seed(seed_of(self.seed, epoch, index))  # training sets its own seed at every step
        image = to_tensor(pixels, self.preprocess.channels)
        if self.crop == "random":
            image = self.random_crop()(image)
        else:
            image = self.preprocess.picture(pixels)
        return self.rand_augment()(image) if self.randaugment else image

    def random_crop(self) -> Callable[[Tensor], Tensor]:
        from torchvision.transforms import v2

        mode = v2.InterpolationMode(self.preprocess.interpolation)
        return v2.RandomResizedCrop(list(self.preprocess.size), scale=self.scale, interpolation=mode, antialias=True)

    def rand_augment(self) -> Callable[[Tensor], Tensor]:
        from torchvision.transforms import v2

        return v2.RandAugment(self.randaugment, self.magnitude)

    def batch(self, pictures: Tensor, keys: Keys) -> Tensor:
        """uint8 [B C h w] -> float32, augmented and normalised: the stage that runs where the model is."""
        if self.crop == "pad" and self.pad:
            pictures = shifted(pictures, self.shifts(keys, SHIFT_Y), self.shifts(keys, SHIFT_X), self.pad)
        for wanted, purpose, axis in ((self.flip, FLIP, 3), (self.flip_vertical, FLIP_VERTICAL, 2)):
            if wanted:
                turned = torch.from_numpy(chance(self.seed, keys, purpose) < 0.5).to(pictures.device)
                pictures = torch.where(turned[:, None, None, None], pictures.flip(axis), pictures)
        images = normalise(pictures, self.preprocess.mean, self.preprocess.std)
        return images.masked_fill(self.erased(images, keys), 0.0) if self.erase else images

    def shifts(self, keys: Keys, purpose: int) -> Tensor:
        """By how many pixels each picture moves, 0 to twice the padding."""
        return torch.from_numpy((chance(self.seed, keys, purpose) * (2 * self.pad + 1)).astype(np.int64))

    def erased(self, images: Tensor, keys: Keys) -> Tensor:
        """Which pixels are erased, bool [B 1 h w]: one rectangle of 2 to 33 % of the area, ratio 0.3 to 3.3 (Zhong et al. 2017)."""
        height, width = images.shape[2:]
        u = {p: chance(self.seed, keys, p) for p in (ERASE, ERASE_AREA, ERASE_RATIO, ERASE_Y, ERASE_X)}
        area = (0.02 + u[ERASE_AREA] * 0.31) * height * width
        ratio = np.exp(np.log(0.3) + u[ERASE_RATIO] * (np.log(3.3) - np.log(0.3)))
        tall = np.minimum(np.sqrt(area * ratio), height).round()
        wide = np.where(u[ERASE] < self.erase, np.minimum(np.sqrt(area / ratio), width).round(), 0)
        rows = between(u[ERASE_Y], tall, height)
        columns = between(u[ERASE_X], wide, width)
        return torch.from_numpy(rows[:, None, :, None] & columns[:, None, None, :]).to(images.device)


def between(place: np.ndarray, length: np.ndarray, whole: int) -> np.ndarray:
    """bool [B whole]: an interval of a given length at a given relative place."""
    start = np.floor(place * (whole - length + 1))[:, None]
    index = np.arange(whole)[None]
    return (index >= start) & (index < start + length[:, None])


def shifted(pictures: Tensor, down: Tensor, right: Tensor, pad: int) -> Tensor:
    """Each picture moved within a black border of `pad` pixels and cut to its size again."""
    b, _, height, width = pictures.shape
    wide = F.pad(pictures, (pad,) * 4)
    rows = (down[:, None] + torch.arange(height)).to(pictures.device)  # [B h]
    columns = (right[:, None] + torch.arange(width)).to(pictures.device)  # [B w]
    which = torch.arange(b, device=pictures.device)
    return wide.permute(0, 2, 3, 1)[which[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
