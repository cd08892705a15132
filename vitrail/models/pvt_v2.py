"""PVT v2: improved baselines with Pyramid Vision Transformer (Wang et al. 2021, arxiv.org/abs/2106.13797).

What changed since PVT: patches overlap, the zero padding of a depthwise convolution inside the MLP encodes positions
instead of a table, the summary is the mean of the last map instead of a class token. The "linear" variants pool their
keys to a grid of a fixed size, so that the cost of attention is linear in the number of pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.contracts import Backbone
from vitrail.layers.attention import Attention, AttentionInputs, split_heads
from vitrail.layers.drop import DropPath, drop_rates
from vitrail.layers.token_layout import AttentionLayout, Cells, Side, cross_attention_layout, side_of
from vitrail.models.pvt import ReducedAttention
from vitrail.shapes import Float
from vitrail.types import Features, TokenLayout
from vitrail.validation import Fraction, Positive, PositiveFloat


@dataclass(frozen=True)
class Config:
    widths: tuple[Positive, Positive, Positive, Positive] = (64, 128, 320, 512)
    depths: tuple[Positive, Positive, Positive, Positive] = (3, 4, 6, 3)  # blocks of each stage
    heads: tuple[Positive, Positive, Positive, Positive] = (1, 2, 5, 8)
    mlp_ratios: tuple[PositiveFloat, PositiveFloat, PositiveFloat, PositiveFloat] = (8.0, 8.0, 4.0, 4.0)
    reductions: tuple[Positive, Positive, Positive, Positive] = (8, 4, 2, 1)  # cells along an axis per key
    pool: Positive | None = None  # linear variants: keys are averages over pool x pool cells; ignores `reductions`
    size: tuple[Positive, Positive] = (224, 224)
    channels: Positive = 3
    eps: PositiveFloat = 1e-6  # of the norms of blocks and stages
    inner_eps: PositiveFloat = 1e-5  # of the norms after patches and reduction, torch's default in the original
    qkv_bias: bool = True
    dropout: Fraction = 0.0
    attention_dropout: Fraction = 0.0
    drop_path: Fraction = 0.0


VARIANTS = {
    "b0":    Config(depths=(2, 2, 2, 2), widths=(32, 64, 160, 256)),
    "b1":    Config(depths=(2, 2, 2, 2)),
    "b2":    Config(depths=(3, 4, 6, 3)),
    "b2_li": Config(depths=(3, 4, 6, 3), pool=7),
    "b3":    Config(depths=(3, 4, 18, 3)),
    "b4":    Config(depths=(3, 8, 27, 3)),
    "b5":    Config(depths=(3, 6, 40, 3), mlp_ratios=(4.0, 4.0, 4.0, 4.0)),
}  # fmt: skip


STRIDES = (4, 8, 16, 32)


class PooledAttention(Attention):
    """Every token attends to the same number of keys, `pool` x `pool`, each the mean of its share of the grid (section
    3.2)."""

    def __init__(self, width: int, heads: int, pool: int, eps: float, qkv_bias: bool = True, dropout: float = 0.0,
                 attention_dropout: float = 0.0):  # fmt: skip
        super().__init__(width, heads, dropout, attention_dropout)
        self.q = nn.Linear(width, width, bias=qkv_bias)
        self.kv = nn.Linear(width, 2 * width, bias=qkv_bias)
        self.side, self.pool = pool, nn.AdaptiveAvgPool2d(pool)
        self.sr = nn.Conv2d(width, width, 1)
        self.norm = nn.LayerNorm(width, eps)

    def project(self, x: Tensor, layout: TokenLayout) -> AttentionInputs:
        pooled = self.sr(self.pool(x.mT.unflatten(2, layout.grid)))  # [B N D] -> [B D p p]
        k, v = self.kv(F.gelu(self.norm(pooled.flatten(2).mT))).chunk(2, dim=-1)
        q, k, v = (split_heads(t, self.heads) for t in (self.q(x), k, v))
        return AttentionInputs(q, k, v)

    def locate(self, x: Tensor, layout: TokenLayout) -> AttentionLayout:
        shares = (pooled_edges(n, self.side) * step for n, step in zip(layout.grid, layout.stride, strict=True))
        return cross_attention_layout(side_of(layout), Side(0, (Cells(*shares),)))


def pooled_edges(count: int, pool: int) -> Tensor:
    """The begin and end of the intervals of adaptive pooling of `count` cells in a row: [pool 2]. They may overlap."""
    return torch.tensor([[i * count // pool, -(-(i + 1) * count // pool)] for i in range(pool)], dtype=torch.float32)


class ConvMlp(nn.Module):
    """Linear, depthwise 3x3 convolution over the grid, GELU, linear; the linear variants have a ReLU before the
    convolution."""

    def __init__(self, width: int, hidden: int, relu: bool, dropout: float):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.relu = nn.ReLU() if relu else nn.Identity()
        self.dwconv = nn.Conv2d(hidden, hidden, 3, 1, 1, groups=hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "B N D"], grid: tuple[int, int]) -> Float[Tensor, "B N D"]:
        x = self.relu(self.fc1(x)).mT.unflatten(2, grid)  # [B N D] -> [B 4D h w]
        x = F.gelu(self.dwconv(x).flatten(2).mT)
        return self.dropout(self.fc2(self.dropout(x)))


class Block(nn.Module):
    """x + attention, x + MLP, both after their norm; `stage` counts from 0."""

    def __init__(self, config: Config, stage: int, drop_path: float):
        super().__init__()
        width = config.widths[stage]
        self.norm1 = nn.LayerNorm(width, config.eps)
        self.attn = attention(config, stage)
        self.norm2 = nn.LayerNorm(width, config.eps)
        self.mlp = ConvMlp(width, int(width * config.mlp_ratios[stage]), config.pool is not None, config.dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, layout: TokenLayout) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), layout))
        return x + self.drop_path(self.mlp(self.norm2(x), layout.grid))


def attention(config: Config, stage: int) -> Attention:
    width, heads, eps = config.widths[stage], config.heads[stage], config.inner_eps
    rates = (config.dropout, config.attention_dropout)
    if config.pool is not None:
        return PooledAttention(width, heads, config.pool, eps, config.qkv_bias, *rates)
    return ReducedAttention(width, heads, config.reductions[stage], eps, config.qkv_bias, *rates)


class OverlapPatchEmbed(nn.Module):
    """A map [B C H W] -> overlapping patches [B h w D]: 7x7 every 4 pixels, or 3x3 every 2 cells."""

    def __init__(self, inside: int, width: int, stride: int, eps: float):
        super().__init__()
        self.proj = nn.Conv2d(inside, width, 2 * stride - 1, stride, stride - 1)
        self.norm = nn.LayerNorm(width, eps)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B h w D"]:
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class Stage(nn.Module):
    """The input of the first stage is patches [B h w D], of the others a map [B C H W]; the output is a map [B D h
    w]."""

    def __init__(self, config: Config, stage: int, rates: Sequence[float]):
        super().__init__()
        width, self.stride = config.widths[stage], STRIDES[stage]
        self.downsample = (
            OverlapPatchEmbed(config.widths[stage - 1], width, 2, config.inner_eps) if stage else nn.Identity()
        )
        self.blocks = nn.ModuleList(Block(config, stage, rate) for rate in rates)
        self.norm = nn.LayerNorm(width, config.eps)

    def forward(self, x: Float[Tensor, "B _ _ _"]) -> Float[Tensor, "B D h w"]:
        x = self.downsample(x)  # [B h w D]
        grid = (x.shape[1], x.shape[2])
        layout = TokenLayout(grid, (self.stride, self.stride))
        x = x.flatten(1, 2)
        for block in self.blocks:
            x = block(x, layout)
        return self.norm(x).mT.unflatten(2, grid)


class PVTv2(Backbone):
    """Images [B C H W] -> `Features`: the mean of the last map, and four maps at strides 4, 8, 16, 32, each after its
    norm."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.patch_embed = OverlapPatchEmbed(config.channels, config.widths[0], 4, config.inner_eps)
        rates = iter(drop_rates(config.drop_path, sum(config.depths), "linear"))
        self.stages = nn.ModuleList(
            Stage(config, i, [next(rates) for _ in range(n)]) for i, n in enumerate(config.depths)
        )
        self.summary_widths, self.map_widths, self.strides = config.widths[-1:], config.widths, STRIDES
        self.any_size_from = 2 * STRIDES[-1] if config.pool is None else 0
        initialise(self)

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return [block for stage in self.stages for block in stage.get_submodule("blocks").children()]

    def forward(self, images: Float[Tensor, "B C H W"]) -> Features:
        x, maps = self.patch_embed(images), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return Features((x.mean((2, 3)),), tuple(maps))


def build(config: Config) -> PVTv2:
    """A PVT v2, freshly initialised."""
    return PVTv2(config)


def initialise(model: nn.Module) -> None:
    """Linear weights trunc-normal 0.02, convolutions He-normal by the fan-out of a group, biases zero."""
    for m in model.modules():
        if isinstance(m, nn.Linear):
            nn.init.trunc_normal_(m.weight, std=0.02)
        elif isinstance(m, nn.Conv2d):
            nn.init.normal_(m.weight, std=(2 * m.groups / (m.out_channels * m.weight[0, 0].numel())) ** 0.5)
        if isinstance(m, nn.Linear | nn.Conv2d) and m.bias is not None:
            nn.init.zeros_(m.bias)
