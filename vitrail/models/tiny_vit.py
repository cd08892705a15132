"""TinyViT: fast pretraining distillation for small vision transformers (Wu et al. 2022, arxiv.org/abs/2207.10666).

Four stages on ever coarser maps: convolutions (MBConv) in the first, then attention inside windows that do not shift,
each followed by a depthwise convolution, which is how windows learn of each other, and an MLP. Published weights were
distilled from a larger model's logits, which were stored once. Names of parameters follow timm.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vitrail.contracts import Backbone
from vitrail.errors import UsageError
from vitrail.layers.attention import Attention, AttentionInputs
from vitrail.layers.drop import DropPath, drop_rates
from vitrail.layers.init import zero
from vitrail.layers.norm import ConvNorm
from vitrail.layers.relative import Displacements, all_displacements, distances
from vitrail.layers.token_layout import AttentionLayout, self_attention_layout
from vitrail.layers.windows import Windows, attend_windows
from vitrail.shapes import Float
from vitrail.types import Features, TokenLayout
from vitrail.validation import Fraction, Positive, PositiveFloat

Four = tuple[Positive, Positive, Positive, Positive]
STRIDES = (4, 8, 16, 32)


@dataclass(frozen=True)
class Config:
    widths: Four = (96, 192, 384, 576)  # of the four stages
    depths: Four = (2, 2, 6, 2)
    heads: tuple[Positive, Positive, Positive] = (6, 12, 18)  # of the last three stages; the first has no attention
    windows: tuple[Positive, Positive, Positive] = (7, 14, 7)  # cells along a side, likewise
    expand: PositiveFloat = 4.0  # of the convolutions of the first stage
    mlp_ratio: PositiveFloat = 4.0
    size: tuple[Positive, Positive] = (224, 224)  # any other works too
    channels: Positive = 3
    eps: PositiveFloat = 1e-5
    dropout: Fraction = 0.0
    drop_path: Fraction = 0.0


VARIANTS = {
    "5m":  Config((64, 128, 160, 320), heads=(4, 5, 10)),
    "11m": Config((64, 128, 256, 448), heads=(4, 8, 14)),
    "21m": Config((96, 192, 384, 576), heads=(6, 12, 18)),
    "21m_384": Config((96, 192, 384, 576), heads=(6, 12, 18), windows=(12, 24, 12), size=(384, 384)),
    "21m_512": Config((96, 192, 384, 576), heads=(6, 12, 18), windows=(16, 32, 16), size=(512, 512)),
}  # fmt: skip


class Stem(nn.Module):
    """Two 3x3 convolutions of stride 2."""

    def __init__(self, config: Config):
        super().__init__()
        width = config.widths[0]
        self.conv1, self.act = ConvNorm(config.eps, config.channels, width // 2, 3, 2), nn.GELU()
        self.conv2 = ConvNorm(config.eps, width // 2, width, 3, 2)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        return self.conv2(self.act(self.conv1(images)))


class MBConv(nn.Module):
    """x + 1x1, depthwise 3x3 and 1x1 convolutions, the GELU of the sum (Sandler et al. 2018)."""

    def __init__(self, config: Config, width: int, drop_path: float):
        super().__init__()
        hidden, self.act = int(width * config.expand), nn.GELU()
        self.conv1 = ConvNorm(config.eps, width, hidden)
        self.conv2 = ConvNorm(config.eps, hidden, hidden, 3, groups=hidden)
        self.conv3 = ConvNorm(config.eps, hidden, width, gain=0.0)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        y = self.conv3(self.act(self.conv2(self.act(self.conv1(x)))))
        return self.act(x + self.drop_path(y))


class Merge(nn.Module):
    """To half the grid and the next stage's width."""

    def __init__(self, config: Config, inside: int, out: int):
        super().__init__()
        self.act = nn.GELU()
        self.conv1, self.conv2 = ConvNorm(config.eps, inside, out), ConvNorm(config.eps, out, out, 3, 2, out)
        self.conv3 = ConvNorm(config.eps, out, out)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        return self.conv3(self.act(self.conv2(self.act(self.conv1(x)))))


class DistanceBias(Displacements):
    """A bias for every head and distance of two cells of a window, down and across: [heads window*window]."""

    index: Tensor

    def __init__(self, heads: int, window: int):
        super().__init__()
        self.window = window
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))
        self.register_buffer("index", distances(window), persistent=False)

    def forward(self) -> Float[Tensor, "h N N"]:
        return self.attention_biases[:, self.index]

    def by_displacement(self) -> Tensor:
        return all_displacements(self.attention_biases, self.window)


class WindowAttention(Attention):
    """The cells of a window [B*n N D] attend to each other, with a bias for every distance. The norm is inside."""

    def __init__(self, config: Config, width: int, heads: int, window: int):
        super().__init__(width, heads, config.dropout)
        self.norm, self.qkv = nn.LayerNorm(width, config.eps), nn.Linear(width, 3 * width)
        self.relative = DistanceBias(heads, window)

    def project(self, x: Tensor, mask: Tensor | None, layout: TokenLayout) -> AttentionInputs:
        heads = self.qkv(self.norm(x)).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B*n h N 3d]
        q, k, v = heads.chunk(3, dim=-1)
        return AttentionInputs(q, k, v, self.relative())

    def locate(self, x: Tensor, mask: Tensor | None, layout: TokenLayout) -> AttentionLayout:
        return self_attention_layout(layout)


class NormMlp(nn.Module):
    """Norm, linear, GELU, linear."""

    def __init__(self, config: Config, width: int):
        super().__init__()
        hidden = int(width * config.mlp_ratio)
        self.norm, self.act = nn.LayerNorm(width, config.eps), nn.GELU()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        return self.dropout(self.fc2(self.dropout(self.act(self.fc1(self.norm(x))))))


class Block(nn.Module):
    """x + attention in windows, a depthwise convolution, x + MLP, on a map [B H W D]."""

    def __init__(self, config: Config, stage: int, drop_path: float):
        super().__init__()
        width, window = config.widths[stage], config.windows[stage - 1]
        self.windows = Windows((window, window))
        self.attn = WindowAttention(config, width, config.heads[stage - 1], window)
        self.local_conv = ConvNorm(config.eps, width, width, 3, groups=width)
        self.mlp = NormMlp(config, width)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Float[Tensor, "B H W D"], layout: TokenLayout) -> Float[Tensor, "B H W D"]:
        x = x + self.drop_path(attend_windows(self.attn, x, layout, self.windows))
        x = self.local_conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + self.drop_path(self.mlp(x))


class ConvStage(nn.Module):
    """The first stage: convolutions alone."""

    def __init__(self, blocks: Sequence[nn.Module]):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        for block in self.blocks:
            x = block(x)
        return x


class Stage(nn.Module):
    """Downsampling, and blocks at one resolution, of `stride` pixels per cell."""

    def __init__(self, downsample: nn.Module, blocks: Sequence[nn.Module], stride: int):
        super().__init__()
        self.downsample, self.stride = downsample, stride
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Float[Tensor, "B C _ _"]) -> Float[Tensor, "B D h w"]:
        x = self.downsample(x).permute(0, 2, 3, 1)  # [B h w D]
        layout = TokenLayout((x.shape[1], x.shape[2]), (self.stride, self.stride))
        for block in self.blocks:
            x = block(x, layout)
        return x.permute(0, 3, 1, 2)


class TinyViT(Backbone):
    """Images [B C H W] -> `Features`: the mean of the last map, normed, and the maps of the four stages."""

    def __init__(self, config: Config):
        super().__init__()
        check(config)
        self.config, widths = config, config.widths
        self.patch_embed = Stem(config)
        rates = iter(drop_rates(config.drop_path, sum(config.depths), "linear"))
        self.stages = nn.ModuleList(
            [ConvStage([MBConv(config, widths[0], next(rates)) for _ in range(config.depths[0])])]
        )
        for i in (1, 2, 3):
            blocks = [Block(config, i, next(rates)) for _ in range(config.depths[i])]
            self.stages.append(Stage(Merge(config, widths[i - 1], widths[i]), blocks, STRIDES[i]))
        self.norm = nn.LayerNorm(widths[-1], config.eps)
        self.summary_widths, self.map_widths, self.strides = (widths[-1],), widths, STRIDES
        for m in self.modules():
            if isinstance(m, nn.Linear):
                nn.init.trunc_normal_(m.weight, std=0.02)
                zero(m.bias)

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return [block for stage in self.stages for block in stage.get_submodule("blocks").children()]

    def forward(self, images: Float[Tensor, "B C H W"]) -> Features:
        x = self.patch_embed(images)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return Features((self.norm(x.mean((2, 3))),), tuple(maps))


def build(config: Config) -> TinyViT:
    """A TinyViT, freshly initialised."""
    return TinyViT(config)


def check(config: Config) -> None:
    """Errors: `UsageError` where widths and heads do not match."""
    for width, heads in zip(config.widths[1:], config.heads, strict=True):
        if width % heads:
            near = sorted({max(heads, width // heads * heads), (width // heads + 1) * heads})
            raise UsageError(f"width {width} is not divisible by {heads} heads", f"nearest widths that work: {near}")
    if config.widths[0] < 2:
        raise UsageError(f"the first width is {config.widths[0]}", "use at least 2: the stem begins with half of it")
