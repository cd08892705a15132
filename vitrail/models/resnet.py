"""ResNet v1.5: deep residual learning for image recognition (He et al. 2015, arxiv.org/abs/1512.03385), the CNN
baseline.

Convolutions only: every block adds its output to its input, so that gradients reach the first of 152 layers. The maps
halve and widen from stage to stage, and the mean of the last is the summary. In "1.5" a bottleneck halves the grid in
its 3x3 convolution, not in the 1x1 before it, as in torchvision. Names of parameters are torchvision's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from vitrail.contracts import Backbone
from vitrail.errors import UsageError
from vitrail.layers.drop import DropPath, drop_rates
from vitrail.shapes import Float
from vitrail.types import Features
from vitrail.validation import NonNegative, Positive


@dataclass(frozen=True)
class Config:
    depths: tuple[Positive, Positive, Positive, Positive] = (3, 4, 6, 3)  # blocks of each stage
    block: Literal["basic", "bottleneck"] = "bottleneck"
    width: Positive = 64  # of the first stage; each stage doubles it
    stem_stride: Literal[4, 2, 1] = 4  # of the first map: 2 has no pooling; 1 is a 3x3 convolution, as for CIFAR
    last_stride: Literal[2, 1] = 2  # of the last stage; 1: its 3x3 convolutions are dilated instead (DETR's DC5)
    size: tuple[Positive, Positive] = (224, 224)
    channels: Positive = 3
    eps: float = 1e-5
    zero_last: bool = False  # the last norm of every block starts at zero, so that blocks start as identities
    drop_path: NonNegative = 0.0


VARIANTS = {
    "18":  Config(depths=(2, 2, 2, 2),  block="basic"),
    "34":  Config(depths=(3, 4, 6, 3),  block="basic"),
    "50":  Config(depths=(3, 4, 6, 3)),
    "101": Config(depths=(3, 4, 23, 3)),
    "152": Config(depths=(3, 8, 36, 3)),
}  # fmt: skip


class Basic(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, config: Config, inside: int, width: int, stride: int, dilation: int, drop_path: float):
        super().__init__()
        if dilation > 1:
            raise UsageError("basic blocks are not dilated", 'use block="bottleneck", or last_stride 2')
        self.conv1, self.bn1 = nn.Conv2d(inside, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width, config.eps)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width, config.eps)
        self.downsample = shortcut(inside, width, stride, config.eps)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        y = self.bn1(self.conv1(x)).relu_()
        y = self.bn2(self.conv2(y))
        return (self.drop_path(y) + self.downsample(x)).relu_()


class Bottleneck(nn.Module):
    """1x1 down, 3x3, 1x1 up, and a shortcut."""

    expansion = 4

    def __init__(self, config: Config, inside: int, width: int, stride: int, dilation: int, drop_path: float):
        super().__init__()
        out, eps = width * self.expansion, config.eps
        self.conv1, self.bn1 = nn.Conv2d(inside, width, 1, bias=False), nn.BatchNorm2d(width, eps)
        self.conv2 = nn.Conv2d(width, width, 3, stride, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width, eps)
        self.conv3, self.bn3 = nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out, eps)
        self.downsample = shortcut(inside, out, stride, eps)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        y = self.bn1(self.conv1(x)).relu_()
        y = self.bn2(self.conv2(y)).relu_()
        y = self.bn3(self.conv3(y))
        return (self.drop_path(y) + self.downsample(x)).relu_()


class ResNet(Backbone):
    """Images [B C H W] -> `Features`: the mean of the last map, and four maps at strides 4, 8, 16, 32 (less for a finer
    stem)."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        kind = Basic if config.block == "basic" else Bottleneck
        width = config.width
        stem = config.stem_stride
        kernel, step, edge = (3, 1, 1) if stem == 1 else (7, 2, 3)
        self.conv1 = nn.Conv2d(config.channels, width, kernel, step, edge, bias=False)
        self.bn1 = nn.BatchNorm2d(width, config.eps)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if stem == 4 else nn.Identity()
        rates = iter(drop_rates(config.drop_path, sum(config.depths), "linear"))
        inside, widths = width, []
        for i, depth in enumerate(config.depths):
            stage = []
            dilated = i == 3 and config.last_stride == 1
            for j in range(depth):
                stride = 2 if i and not j and not dilated else 1
                # the first block halves nothing and keeps its neighbours, as in torchvision
                stage.append(kind(config, inside, width << i, stride, 2 if dilated and j else 1, next(rates)))
                inside = (width << i) * kind.expansion
            self.add_module(f"layer{i + 1}", nn.Sequential(*stage))
            widths.append(inside)
        self.summary_widths, self.map_widths = (inside,), tuple(widths)
        self.strides = (stem, stem << 1, stem << 2, (stem << 2) * config.last_stride)
        initialise(self, config.zero_last)

    @property
    def stages(self) -> Sequence[nn.Module]:
        return [self.get_submodule(f"layer{i}") for i in (1, 2, 3, 4)]

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return [block for stage in self.stages for block in stage.children()]

    def forward(self, images: Float[Tensor, "B C H W"]) -> Features:
        x = self.maxpool(self.bn1(self.conv1(images)).relu_())
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return Features((x.mean((2, 3)),), tuple(maps))


def build(config: Config) -> ResNet:
    """A ResNet, freshly initialised."""
    return ResNet(config)


def shortcut(inside: int, out: int, stride: int, eps: float) -> nn.Module:
    """The identity, or a projection where grid or width change."""
    if stride == 1 and inside == out:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inside, out, 1, stride, bias=False), nn.BatchNorm2d(out, eps))


def initialise(model: ResNet, zero_last: bool) -> None:
    for m in model.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
    for block in model.modules() if zero_last else ():
        if isinstance(block, Basic | Bottleneck):
            nn.init.zeros_((block.bn3 if isinstance(block, Bottleneck) else block.bn2).weight)
