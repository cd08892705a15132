"""Random colours of one image. torchvision's transforms do the same in several passes, and take as long to import as
torch."""

import torch
from torch import Tensor

LUMA = (0.2989, 0.587, 0.114)  # red, green, blue in grey, as torchvision has them


def jitter_colors(image: Tensor, jitter: float) -> Tensor:
    """uint8 [C H W] -> uint8 [C H W]: brightness, contrast and saturation times 1 - jitter to 1 + jitter, in random
    order; torchvision's `ColorJitter` with the same random numbers.

    Each is linear, towards black, the mean grey, and the grey of each pixel: so all are one product, rounded and
    clipped once. Grey is the mean where there are not three channels, and one channel has no saturation.
    """
    order = torch.randperm(4).tolist()  # its fourth is the hue
    factors = [float(torch.empty(1).uniform_(max(0.0, 1 - jitter), 1 + jitter)) for _ in range(3)]
    channels = len(image)
    luma = torch.tensor(LUMA) if channels == len(LUMA) else torch.full((channels,), 1 / channels)
    pixels = image.flatten(1).float()  # planes: of interleaved pixels the product takes ten times as long
    mean, matrix, offset = pixels.mean(1), torch.eye(channels), torch.zeros(channels)
    for which in order:
        if which == 3:
            continue
        factor = factors[which]
        if which == 2:
            towards_grey = factor * torch.eye(channels) + (1 - factor) * luma.expand(channels, -1)
            matrix, offset = towards_grey @ matrix, towards_grey @ offset
            continue
        grey = luma @ (matrix @ mean + offset) if which == 1 else 0.0
        matrix, offset = factor * matrix, factor * offset + (1 - factor) * grey
    changed = torch.addmm(offset[:, None], matrix, pixels)
    return changed.round_().clamp_(0, 255).to(torch.uint8).view(image.shape)
