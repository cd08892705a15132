"""Decoders that sum maps: the semantic FPN (Kirillov et al. 2019, arxiv.org/abs/1901.02446, section 3.1; with PVT: Wang
et al. 2021, section 4.3), and progressive upsampling (SETR-PUP: Zheng et al. 2020, arxiv.org/abs/2012.15840, section
3.2)."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.heads.blocks import Classify, Conv, NormKind, resize_map
from vitrail.shapes import Float


class SemanticFPN(nn.Module):
    """A pyramid -> logits [B K h w] of its finest level.

    1x1 convolutions to `width`, each level is added to the next finer one, a 3x3 convolution each; then every level is
    upsampled to the finest by 3x3 convolutions of half the width with 2x upsampling between, and their sum is
    classified.
    """

    def __init__(self, widths: Sequence[int], classes: int, width: int, norm: NormKind, dropout: float):
        super().__init__()
        half = max(1, width // 2)
        self.laterals = nn.ModuleList(nn.Conv2d(inside, width, 1) for inside in widths)
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in widths)
        self.climbs = nn.ModuleList(
            nn.ModuleList(Conv(half if i else width, half, 3, norm) for i in range(max(1, level)))
            for level in range(len(widths))
        )
        self.classify = Classify(half, classes, dropout)

    def forward(self, maps: Sequence[Float[Tensor, "B _ _ _"]]) -> Float[Tensor, "B K h w"]:
        merged = [lateral(x) for lateral, x in zip(self.laterals, maps, strict=True)]
        for fine, coarse in reversed(list(pairwise(range(len(maps))))):
            # nearest, as the original
            merged[fine] = merged[fine] + F.interpolate(merged[coarse], merged[fine].shape[2:])
        sizes = [x.shape[2:] for x in merged]
        risen = []
        for level, (smooth, climb) in enumerate(zip(self.smooth, self.climbs, strict=True)):
            x = smooth(merged[level])
            for i, conv in enumerate(climb.children()):
                x = resize_map(conv(x), sizes[max(0, level - i - 1)])
            risen.append(x)
        return self.classify(sum(risen[1:], risen[0]))


class Progressive(nn.Module):
    """Maps, the last of them of stride `stride` -> logits [B K h w], about one per pixel: 3x3 convolutions, each
    followed by 2x upsampling. After each upsampling the previous map is added, through a 1x1 convolution and at that
    size, as long as there is one: of a plain ViT one from a shallower depth, of a hierarchical backbone a finer one.
    With a single map it is SETR-PUP.
    """

    def __init__(self, widths: Sequence[int], stride: float, classes: int, width: int, norm: NormKind, dropout: float):
        super().__init__()
        steps = count_doublings(stride)
        self.convs = nn.ModuleList(Conv(width if i else widths[-1], width, 3, norm) for i in range(steps))
        skips = [*reversed(widths[:-1])][: steps - 1]
        self.skips = nn.ModuleList(nn.Conv2d(inside, width, 1) for inside in skips)
        self.classify = Classify(width, classes, dropout)

    def forward(self, maps: Sequence[Float[Tensor, "B _ _ _"]]) -> Float[Tensor, "B K h w"]:
        skipped = list(zip(self.skips.children(), reversed(maps[:-1]), strict=False))
        x = maps[-1]
        for i, conv in enumerate(self.convs):
            x = conv(x)
            x = resize_map(x, [2 * side for side in x.shape[2:]])
            if i < len(skipped):
                skip, other = skipped[i]
                x = x + resize_map(skip(other), x.shape[2:])
        return self.classify(x)


def count_doublings(stride: float) -> int:
    """The number of 2x upsamplings from a map of this stride to about the image's resolution."""
    return max(1, round(math.log2(stride)))
