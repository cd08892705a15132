"""Patches: the first layer of a Vision Transformer (Dosovitskiy et al. 2020, section 3.1), patches that are dropped in
training, and maps made of them."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.errors import UsageError
from vitrail.shapes import Float
from vitrail.types import TokenLayout, is_free


def pair(patch: int | Sequence[int]) -> tuple[int, int]:
    """A patch as (height, width)."""
    return (patch, patch) if isinstance(patch, int) else (patch[0], patch[1])


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

    def __init__(self, channels: int, width: int, patch: tuple[int, int], bias: bool = True):
        super().__init__()
        self.patch = (patch[0], patch[1])
        self.proj = nn.Conv2d(channels, width, self.patch, self.patch, bias=bias)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B h w D"]:
        below, right = -images.shape[-2] % self.patch[0], -images.shape[-1] % self.patch[1]
        if is_free(below, right) or below or right:
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
        steps = check_halvings("convolutional stem", patch)
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


class PyramidStem(nn.Module):
    """Images [B C H W] -> patches [B h w D] by a small convolutional network: a 3x3 convolution of stride 2, then some
    that each double the width and halve the grid (a maximum of 3x3) until it is reached, and one more at that grid.
    Each grid but the finest ends with `depth` residual pairs of convolutions.

    BatchNorm and ReLU, and channels last in memory: what learns most in the first minutes (docs/log.md). So an image's
    features depend on the others in its batch during training, as in a ResNet. Any image size.
    """

    def __init__(self, channels: int, width: int, patch: int, depth: int):
        super().__init__()
        steps = check_halvings("pyramid stem", patch)
        if width % (1 << (steps - 1)):
            raise UsageError(
                f"width {width} is not divisible by {1 << (steps - 1)}, its {steps} grids", "another width"
            )
        here = width >> (steps - 1)
        self.conv, self.norm = nn.Conv2d(channels, here, 3, 2, 1, bias=False), nn.BatchNorm2d(here)
        layers: list[nn.Module] = []
        for left in reversed(range(steps - 1)):
            layers += [Halving(here, 2 * here), *(Pair(2 * here) for _ in range(depth if left else 0))]
            here *= 2
        layers += [nn.Conv2d(here, here, 3, 1, 1, bias=False), nn.BatchNorm2d(here), nn.ReLU(inplace=True)]
        self.convs = nn.Sequential(*layers, *(Pair(here) for _ in range(depth)))
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B h w D"]:
        patches: Tensor = self.convs(self.norm(self.conv(images)).relu_())  # [B D h w]
        return patches.permute(0, 2, 3, 1)


class Halving(nn.Module):
    """A 3x3 convolution, the maximum of 3x3 cells at stride 2, norm and ReLU: a map with half the grid."""

    def __init__(self, channels: int, out: int):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        coarse: Tensor = self.norm(F.max_pool2d(self.conv(x), 3, 2, 1))
        return coarse.relu_()


class Pair(nn.Module):
    """x + two 3x3 convolutions of it, and ReLU."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Float[Tensor, "B D h w"]) -> Float[Tensor, "B D h w"]:
        both: Tensor = x + self.norm2(self.conv2(self.norm1(self.conv1(x)).relu_()))
        return both.relu_()


def check_halvings(what: str, patch: int) -> int:
    """How often a stem halves the image. Errors: `UsageError` where patches are no power of two."""
    steps = patch.bit_length() - 1
    if patch < 2 or patch != 1 << steps:
        low = 1 << max(1, steps)
        message = f"the {what} halves the image; patch {patch} is not a power of two"
        raise UsageError(message, f"nearest that work: {low} and {2 * low}")
    return steps


def drop_patches(patches: Float[Tensor, "B N D"], share: float) -> tuple[Tensor, Tensor | None]:
    """A random share of the patches [B N D] dropped, the same number for each image: the others and their indices
    [B n], None where all are kept (PatchDropout, Liu et al. 2022)."""
    count = max(1, round((1.0 - share) * patches.shape[1]))
    if count >= patches.shape[1]:
        return patches, None
    indices = torch.rand(patches.shape[:2], device=patches.device).argsort(1)[:, :count]
    return patches.take_along_dim(indices[..., None], 1), indices


def patch_map(x: Float[Tensor, "B N D"], layout: TokenLayout) -> Float[Tensor, "B D h w"]:
    """The patches of a sequence as a map [B D h w]. Dropped ones are filled with the mean of the rest, which keeps
    shape and mean."""
    patches, (h, w), kept = x[:, layout.leading :], layout.grid, layout.kept
    if kept is not None:
        filled = patches.mean(1, keepdim=True).expand(-1, h * w, -1)
        patches = filled.scatter(1, kept[..., None].expand_as(patches), patches)
    fmap: Tensor = patches.mT.unflatten(2, (h, w))  # [B hw D] -> [B D h w]
    return fmap


def inner_depths(depths: tuple[int, ...], blocks: int) -> tuple[int, ...]:
    """The numbers of blocks after which there is a map, besides the last. Errors: `UsageError` for depths out of
    range, or out of order."""
    text = " ".join(map(str, depths))
    if depths and not 1 <= min(depths) <= max(depths) <= blocks:
        raise UsageError(f"map_depths is {text}, and there are {blocks} blocks", f"use depths of 1 to {blocks}")
    if list(depths) != sorted(set(depths)):
        raise UsageError(f"map_depths is not ascending: {text}", f"use {' '.join(map(str, sorted(set(depths))))}")
    return tuple(depth for depth in depths if depth < blocks)
