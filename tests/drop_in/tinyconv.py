"""TinyConv: a few depthwise-separable convolutions with shortcuts (Chollet 2016, arxiv.org/abs/1610.02357)."""

from dataclasses import dataclass

from torch import Tensor, nn

from vitrail.contracts import Backbone
from vitrail.types import Features
from vitrail.validation import Positive


@dataclass(frozen=True)
class Config:
    width: Positive = 16
    depth: Positive = 2  # blocks behind the stem
    patch: Positive = 4  # pixels of a cell of the map
    size: tuple[Positive, Positive] = (28, 28)
    channels: Positive = 3


VARIANTS = {
    "nano": Config(),
    "micro": Config(width=32, depth=4),
}


class Block(nn.Module):
    """Maps [B D h w] -> [B D h w]: a convolution within each channel, one across channels, and a shortcut."""

    def __init__(self, width: int):
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm = nn.GroupNorm(1, width)
        self.pointwise = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.pointwise(self.norm(self.depthwise(x))).relu()


class TinyConv(Backbone):
    """Images [B C H W] -> `Features`: one map, and its mean as the summary."""

    blocks: nn.ModuleList

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.stem = nn.Conv2d(config.channels, config.width, config.patch, config.patch)
        self.blocks = nn.ModuleList(Block(config.width) for _ in range(config.depth))
        self.summary_widths, self.map_widths, self.strides = (config.width,), (config.width,), (config.patch,)

    def forward(self, images: Tensor) -> Features:
        x = self.stem(images)
        for block in self.blocks:
            x = block(x)
        return Features((x.mean((2, 3)),), (x,))


def build(config: Config) -> TinyConv:
    """A TinyConv, freshly initialised."""
    return TinyConv(config)
