"""UPerNet: unified perceptual parsing (Xiao et al. 2018, arxiv.org/abs/1807.10221), the usual head of Swin, BEiT and
MAE on ADE20K."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vitrail.heads.blocks import Classify, Conv, NormKind, resize_map
from vitrail.shapes import Float

CELLS = (1, 2, 3, 6)  # cells along a side of the pooled coarsest map (PSPNet, Zhao et al. 2016)


class UPerNet(nn.Module):
    """A pyramid -> logits [B K h w] of its finest level.

    The coarsest level is concatenated with its pooling to 1, 4, 9 and 36 cells; each level is added to the next finer
    one; all are resized to the finest and concatenated.
    """

    def __init__(self, widths: Sequence[int], classes: int, width: int, norm: NormKind, dropout: float):
        super().__init__()
        self.pools = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(n), Conv(widths[-1], width, 1, norm)) for n in CELLS
        )
        self.bottleneck = Conv(widths[-1] + len(CELLS) * width, width, 3, norm)
        self.laterals = nn.ModuleList(Conv(inside, width, 1, norm) for inside in widths[:-1])
        self.smooth = nn.ModuleList(Conv(width, width, 3, norm) for _ in widths[:-1])
        self.fuse = Conv(len(widths) * width, width, 3, norm)
        self.classify = Classify(width, classes, dropout)

    def forward(self, maps: Sequence[Float[Tensor, "B _ _ _"]]) -> Float[Tensor, "B K h w"]:
        merged = [self.context(maps[-1])]  # coarse to fine
        for lateral, x in zip(reversed(self.laterals), reversed(maps[:-1]), strict=True):
            merged.append(lateral(x) + resize_map(merged[-1], x.shape[2:]))
        finest = maps[0].shape[2:]
        smoothed = [smooth(x) for smooth, x in zip(self.smooth, reversed(merged[1:]), strict=True)]
        joined = torch.cat([resize_map(x, finest) for x in [*smoothed, merged[0]]], dim=1)
        return self.classify(self.fuse(joined))

    def context(self, x: Tensor) -> Tensor:
        pooled = [resize_map(pool(x), x.shape[2:]) for pool in self.pools]
        return self.bottleneck(torch.cat([x, *pooled], dim=1))


class Auxiliary(nn.Module):
    """A second, shallow head on the last level but one, for the training loss only: a 3x3 convolution and a
    classifier."""

    def __init__(self, widths: Sequence[int], classes: int, width: int, norm: NormKind, dropout: float):
        super().__init__()
        self.conv = Conv(widths[-2], width, 3, norm)
        self.classify = Classify(width, classes, dropout)

    def forward(self, maps: Sequence[Float[Tensor, "B _ _ _"]]) -> Float[Tensor, "B K h w"]:
        return self.classify(self.conv(maps[-2]))
