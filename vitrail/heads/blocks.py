"""Layers of heads on maps: a convolution with its norm, a norm over channels, bilinear resizing, initialisation."""

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.shapes import Float

NormKind = Literal["group", "batch", "none"]
SMALLEST_GROUP = 8  # channels: fewer are too few for a map of one cell, as in pyramid pooling


class BatchNorm(nn.Module):
    """Batch norm that also works in training with a single value per channel (a batch of one image pooled to one cell):
    it has no variance, so it is normed by the running statistics."""

    def __init__(self, width: int):
        super().__init__()
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        if self.training and x.shape[0] * x.shape[2] * x.shape[3] == 1:
            bn = self.bn
            return F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias, False, 0.0, bn.eps)
        return self.bn(x)


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of every cell of a map [B C H W]. The output is contiguous, channels first: on a CPU
    the 3x3 convolutions that follow take 1.3 times as long with channels last."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()


class Conv(nn.Module):
    """A convolution that keeps the size, norm, ReLU."""

    def __init__(self, inside: int, out: int, kernel: int, norm: NormKind):
        super().__init__()
        self.conv = nn.Conv2d(inside, out, kernel, padding=kernel // 2, bias=norm == "none")
        self.norm = map_norm(norm, out)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        return self.norm(self.conv(x)).relu()


class Classify(nn.Module):
    """Class logits for every cell, by a linear layer over its channels: [B C H W] -> [B K H W]. Dropout drops whole
    channels."""

    def __init__(self, width: int, classes: int, dropout: float):
        super().__init__()
        self.dropout = nn.Dropout2d(dropout)
        self.proj = nn.Conv2d(width, classes, 1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K H W"]:
        return self.proj(self.dropout(x))


def map_norm(kind: NormKind, width: int) -> nn.Module:
    """The norm of a map [B C H W]: "group" (at most 32 groups of at least 8 channels) or "batch"."""
    if kind == "none":
        return nn.Identity()
    if kind == "batch":
        return BatchNorm(width)
    most = max(1, min(32, width // SMALLEST_GROUP))
    return nn.GroupNorm(next(groups for groups in range(most, 0, -1) if width % groups == 0), width)


def resize_map(x: Float[Tensor, "B C _ _"], size: Sequence[int]) -> Float[Tensor, "B C _ _"]:
    """A map [B C h w] at another size, bilinear between the centres of cells."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, (size[0], size[1]), mode="bilinear", align_corners=False)


def initialise(head: nn.Module) -> None:
    """Convolutions He-normal, deconvolutions that do not overlap LeCun-normal, classifiers trunc-normal 0.02, biases
    zero."""
    for m in head.modules():
        if isinstance(m, nn.ConvTranspose2d):
            nn.init.normal_(m.weight, std=m.in_channels**-0.5)
        elif isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight)
        if isinstance(m, nn.Conv2d | nn.ConvTranspose2d) and m.bias is not None:
            nn.init.zeros_(m.bias)
    for m in head.modules():
        if isinstance(m, Classify):
            nn.init.trunc_normal_(m.proj.weight, std=0.02)
