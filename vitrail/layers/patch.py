"""Patch embedding: the first layer of a Vision Transformer (Dosovitskiy et al. 2020, section 3.1)."""

import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.errors import UsageError
from vitrail.shapes import Float


def grid_of(size: tuple[int, int], patch: tuple[int, int]) -> tuple[int, int]:
    """The number of patches (down, across) that cover an image of `size` (height, width), the last ones padded if need
    be.

    >>> grid_of((224, 200), (16, 16))
    (14, 13)
    """
    return -(-size[0] // patch[0]), -(-size[1] // patch[1])


class PatchEmbed(nn.Module):
    """Images [B C H W] -> patches [B h w D]: every patch of `patch` (height, width) pixels through one linear layer.

    Any number of channels; any image size, padded with zeros right and below to whole patches.
    """

    def __init__(self, channels: int, width: int, patch: tuple[int, int]):
        super().__init__()
        self.patch = (patch[0], patch[1])
        self.proj = nn.Conv2d(channels, width, self.patch, self.patch)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B h w D"]:
        below, right = -images.shape[-2] % self.patch[0], -images.shape[-1] % self.patch[1]
        if below or right:
            images = F.pad(images, (0, right, 0, below))
        patches: Tensor = self.proj(images)  # [B D h w]
        return patches.permute(0, 2, 3, 1)


class ConvStem(nn.Module):
    """Images [B C H W] -> patches [B h w D] by 3x3 convolutions instead of one large one ("Early convolutions help
    transformers see better", Xiao et al. 2021): stride 2 until the grid is reached, channels doubling from 32, one more
    convolution at half the resolution, and a linear layer to the width.

    GroupNorm replaces the paper's BatchNorm: then an image's features do not depend on the others in its batch, and
    neither gradient accumulation nor the number of processes changes a gradient.
    """

    def __init__(self, channels: int, width: int, patch: int):
        super().__init__()
        steps = patch.bit_length() - 1
        if patch < 2 or patch != 1 << steps:
            low = 1 << max(1, steps)
            raise UsageError(
                f"the convolutional stem halves the image; patch {patch} is not a power of two",
                f"nearest that work: {low} and {2 * low}",
            )
        wide = [32 << i for i in range(steps)]
        layers = [*conv(channels, wide[0], 2), *conv(wide[0], wide[min(1, steps - 1)], 1)]
        here = wide[min(1, steps - 1)]
        for out in wide[1:]:
            layers += conv(here, out, 2)
            here = out
        self.convs = nn.Sequential(*layers)
        self.proj = nn.Conv2d(here, width, 1)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B h w D"]:
        patches: Tensor = self.proj(self.convs(images))  # [B D h w]
        return patches.permute(0, 2, 3, 1)


def conv(channels: int, out: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.GroupNorm(8, out, eps=1e-6), nn.GELU()]
