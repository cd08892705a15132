"""Resizing and random crops as torchvision does them, to the bit. Importing its transforms takes as long as importing
torch, which one image or a small training need not wait for."""

import math
import platform
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

TRIES = 10  # at a crop of the sampled shape, before the middle of the image is taken


def resize_image(image: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    """uint8 [C H W] -> uint8 [C h w], antialiased. interpolation: "bilinear" or "bicubic"."""
    if tuple(image.shape[1:]) == tuple(size):
        return image
    batch = image[None]
    if image.stride(0) == 1 < len(image):  # the stride of the batch must say too that the channels are interleaved
        batch = image.permute(1, 2, 0).contiguous()[None].permute(0, 3, 1, 2)
    is_exact = interpolation == "bicubic" or resizes_bytes()
    if not is_exact:
        batch = batch.float()
    resized = F.interpolate(batch, tuple(size), mode=interpolation, align_corners=False, antialias=True)[0]
    return resized if is_exact else resized.round_().to(torch.uint8)


@cache
def resizes_bytes() -> bool:
    """Whether this processor's bilinear resizing of uint8 is as good as that of floats (torchvision's rule)."""
    return torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") or platform.machine() in ("aarch64", "arm64")


def sample_crop(size: tuple[int, int], scale: tuple[float, float]) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random crop of an image of (height, width), by torch's generator: a share of the
    area in `scale`, ratio 3/4 to 4/3 (Szegedy et al. 2015); torchvision's `RandomResizedCrop` with the same numbers."""
    height, width = size
    low, high = torch.log(torch.tensor((3 / 4, 4 / 3))).tolist()
    for _ in range(TRIES):
        area = height * width * float(torch.empty(1).uniform_(*scale))
        ratio = float(torch.exp(torch.empty(1).uniform_(low, high)))
        wide, tall = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < tall <= height:
            top = int(torch.randint(0, height - tall + 1, size=(1,)))
            return top, int(torch.randint(0, width - wide + 1, size=(1,))), tall, wide
    wide, tall = width, height
    if width / height < 3 / 4:
        tall = round(width / (3 / 4))
    elif width / height > 4 / 3:
        wide = round(height * (4 / 3))
    return (height - tall) // 2, (width - wide) // 2, tall, wide
