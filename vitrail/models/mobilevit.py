"""MobileViT: light-weight, general-purpose, and mobile-friendly vision transformer (Mehta & Rastegari 2021,
arxiv.org/abs/2110.02178).

A lightweight ViT of 1.3 to 5.6 million parameters: an ordinary softmax transformer inside a convolutional pyramid, so
that all tools for attention work with it; timm and transformers have it too, to compare with. Published weights expect
pixels between 0 and 1, without mean subtraction.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.contracts import Backbone
from vitrail.layers.attention import SelfAttention
from vitrail.layers.drop import DropPath, drop_rates
from vitrail.shapes import Float
from vitrail.types import Features, Grid, Groups, TokenLayout, is_free
from vitrail.validation import Count, Fraction, NonNegative, Positive, PositiveFloat


@dataclass(frozen=True)
class Config:
    stem_width: Positive = 16
    # widths of the maps of the five stages
    widths: tuple[Positive, Positive, Positive, Positive, Positive] = (32, 64, 96, 128, 160)
    expand: PositiveFloat = 4.0  # expansion ratio of inverted residuals
    # inverted residuals in the first two stages; the other three have one, then a transformer
    convs: tuple[Positive, Positive] = (1, 3)
    token_widths: tuple[Positive, Positive, Positive] = (144, 192, 240)  # of the transformers
    depths: tuple[Count, Count, Count] = (2, 4, 3)
    heads: Positive = 4
    mlp_ratio: PositiveFloat = 2.0
    patch: Positive = 2  # one pixel of every patch x patch is in a sequence: patch^2 sequences over the whole map
    summary_width: Positive = 640
    size: tuple[Positive, Positive] = (256, 256)
    channels: Positive = 3
    eps: PositiveFloat = 1e-5
    dropout: Fraction = 0.0  # 0.1 in the paper's training
    attention_dropout: Fraction = 0.0
    drop_path: NonNegative = 0.0  # of the transformers' blocks


VARIANTS = {
    "xxs": Config(widths=(16, 24, 48, 64, 80),   token_widths=(64, 80, 96),    summary_width=320, expand=2.0),
    "xs":  Config(widths=(32, 48, 64, 80, 96),   token_widths=(96, 120, 144),  summary_width=384),
    "s":   Config(widths=(32, 64, 96, 128, 160), token_widths=(144, 192, 240), summary_width=640),
}  # fmt: skip


class Conv(nn.Module):
    """Convolution, BatchNorm and, with `act`, SiLU."""

    def __init__(
        self, inside: int, out: int, kernel: int, eps: float, stride: int = 1, groups: int = 1, act: bool = True
    ):
        super().__init__()
        self.conv = nn.Conv2d(inside, out, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out, eps)
        self.act = nn.SiLU() if act else nn.Identity()

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        return self.act(self.bn(self.conv(x)))


class InvertedResidual(nn.Module):
    """1x1 up, 3x3 depthwise, 1x1 down (MobileNetV2; Sandler et al. 2018); a shortcut where grid and width stay."""

    def __init__(self, config: Config, inside: int, out: int, stride: int):
        super().__init__()
        hidden, eps = round(inside * config.expand), config.eps
        self.conv1_1x1 = Conv(inside, hidden, 1, eps)
        self.conv2_kxk = Conv(hidden, hidden, 3, eps, stride, groups=hidden)
        self.conv3_1x1 = Conv(hidden, out, 1, eps, act=False)
        self.shortcut = stride == 1 and inside == out

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        y = self.conv3_1x1(self.conv2_kxk(self.conv1_1x1(x)))
        return x + y if self.shortcut else y


class Block(nn.Module):
    """x + attention, x + MLP, each on a norm; the MLP's activation is SiLU. Sequences [B N D]."""

    def __init__(self, config: Config, width: int, drop_path: float):
        super().__init__()
        hidden = round(width * config.mlp_ratio)
        self.norm1, self.norm2 = (nn.LayerNorm(width, config.eps) for _ in range(2))
        self.attn = SelfAttention(
            width, config.heads, dropout=config.dropout, attention_dropout=config.attention_dropout
        )
        self.mlp = nn.Sequential(
            OrderedDict(
                fc1=nn.Linear(width, hidden),
                act=nn.SiLU(),
                fc2=nn.Linear(hidden, width),
                dropout=nn.Dropout(config.dropout),
            )
        )
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, layout: TokenLayout) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), layout))
        return x + self.drop_path(self.mlp(self.norm2(x)))


@dataclass(frozen=True)
class SamePlaces(Groups):
    """The pixels at the same position of their patch: `patch` x `patch` sequences, each over the whole map."""

    patch: int

    def index(self, grid: Grid) -> Tensor:
        return unfold(torch.arange(grid[0] * grid[1]).view(1, 1, *grid), self.patch).squeeze(-1)


class MobileViTBlock(nn.Module):
    """Local features by convolution, global ones by a transformer, both fused: a map [B C H W] -> one of the same
    shape.

    Only pixels at the same position of their patch attend to each other: the convolutions before mix the others. A map
    that is not divisible into patches is resized to the next larger one that is, and back after (bilinear).
    """

    def __init__(self, config: Config, stage: int, rates: Sequence[float]):
        super().__init__()
        eps, self.patch, self.stride = config.eps, config.patch, 2 << stage
        width, token_width = config.widths[stage], config.token_widths[stage - 2]
        self.conv_kxk = Conv(width, width, 3, eps)
        self.conv_1x1 = nn.Conv2d(width, token_width, 1, bias=False)
        self.transformer = nn.ModuleList(Block(config, token_width, rate) for rate in rates)
        self.norm = nn.LayerNorm(token_width, eps)
        self.conv_proj = Conv(token_width, width, 1, eps)
        self.conv_fusion = Conv(2 * width, width, 3, eps)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        y = self.conv_1x1(self.conv_kxk(x))
        size = (y.shape[2], y.shape[3])
        grid = ((size[0] + self.patch - 1) // self.patch, (size[1] + self.patch - 1) // self.patch)
        padded = (grid[0] * self.patch, grid[1] * self.patch)
        stride = (self.stride * size[0] / padded[0], self.stride * size[1] / padded[1])
        layout = TokenLayout(padded, stride, groups=SamePlaces(self.patch))
        y = unfold(resize(y, padded), self.patch)
        for block in self.transformer:
            y = block(y, layout)
        y = resize(fold(self.norm(y), grid, self.patch), size)
        return self.conv_fusion(torch.cat([x, self.conv_proj(y)], dim=1))


class MobileViT(Backbone):
    """Images [B C H W] -> `Features`: the mean of the last map, widened, and four maps at strides 4, 8, 16, 32."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.stem = Conv(config.channels, config.stem_width, 3, config.eps, stride=2)
        rates = iter(drop_rates(config.drop_path, sum(config.depths), "linear"))
        stages, inside = [], config.stem_width
        for i, width in enumerate(config.widths):
            count = config.convs[i] if i < 2 else 1
            stage: list[nn.Module] = []
            for j in range(count):
                stage.append(InvertedResidual(config, inside, width, 2 if i and not j else 1))
                inside = width
            if i >= 2:
                stage.append(MobileViTBlock(config, i, [next(rates) for _ in range(config.depths[i - 2])]))
            stages.append(nn.Sequential(*stage))
        self.stages = nn.Sequential(*stages)
        self.final_conv = Conv(inside, config.summary_width, 1, config.eps)
        self.summary_widths, self.map_widths, self.strides = (config.summary_width,), config.widths[1:], (4, 8, 16, 32)
        self.any_size_from = 2 * self.strides[-1] * config.patch
        initialise(self)

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """Inverted residuals and MobileViT blocks."""
        return [block for stage in self.stages for block in stage.children()]

    def forward(self, images: Float[Tensor, "B C H W"]) -> Features:
        x, maps = self.stem(images), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return Features((self.final_conv(x).mean((2, 3)),), tuple(maps[1:]))


def build(config: Config) -> MobileViT:
    """A MobileViT, freshly initialised."""
    return MobileViT(config)


def unfold(x: Tensor, patch: int) -> Tensor:
    """A map [B D hp wp] as sequences [Bpp hw D], one for every position in a patch."""
    x, h, w = x.permute(0, 2, 3, 1), x.shape[2] - patch + 1, x.shape[3] - patch + 1
    # strided slices, since a view of hp as [h p] binds a free size while it is traced
    places = [x[:, i : h + i : patch, j : w + j : patch] for i in range(patch) for j in range(patch)]
    return torch.stack(places, dim=1).flatten(2, 3).flatten(0, 1)  # [B pp h w D] -> [Bpp hw D]


def fold(x: Tensor, grid: tuple[int, int], patch: int) -> Tensor:
    """The inverse of `unfold`."""
    x = x.unflatten(1, grid).unflatten(0, (-1, patch, patch))  # [B p p h w D]
    return x.permute(0, 5, 3, 1, 4, 2).flatten(4, 5).flatten(2, 3)


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    if not is_free(*size) and size == (x.shape[2], x.shape[3]):
        return x
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


def initialise(model: nn.Module) -> None:
    """Convolutions He-normal by the fan-out, linear layers truncated normal 0.02 (the paper's code)."""
    for m in model.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(m, nn.Linear):
            nn.init.trunc_normal_(m.weight, std=0.02)
            nn.init.zeros_(m.bias)
