"""PVT: Pyramid Vision Transformer, a backbone for dense prediction without convolutions (Wang et al. 2021,
arxiv.org/abs/2102.12122).

Four stages, each with its own patches and its own learned positions. Keys and values come from a coarser grid, which
reduces the cost of attention on the fine grids, by 64 in the first stage; it is still quadratic in the number of
pixels. A class token is added in the last stage only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.contracts import Backbone
from vitrail.errors import UsageError
from vitrail.layers.attention import Attention, AttentionInputs, split_heads
from vitrail.layers.drop import DropPath, drop_rates
from vitrail.layers.mlp import Mlp
from vitrail.layers.patch import PatchEmbed, grid_of
from vitrail.layers.position import Position
from vitrail.layers.resample import resample
from vitrail.layers.token_layout import AttentionLayout, cross_attention_layout, side_of
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
    patch: Positive = 4  # pixels of the first stage's; every later patch is 2x2 cells of the map before
    size: tuple[Positive, Positive] = (224, 224)  # (height, width) of the position tables; any other size works too
    channels: Positive = 3
    eps: PositiveFloat = 1e-6  # of the norms of blocks and summary
    inner_eps: PositiveFloat = 1e-5  # of the norms after patches and reduction, torch's default in the original
    qkv_bias: bool = True
    dropout: Fraction = 0.0
    attention_dropout: Fraction = 0.0
    drop_path: Fraction = 0.0


VARIANTS = {
    "tiny":   Config(depths=(2, 2, 2, 2)),
    "small":  Config(depths=(3, 4, 6, 3)),
    "medium": Config(depths=(3, 4, 18, 3)),
    "large":  Config(depths=(3, 8, 27, 3)),
}  # fmt: skip


class ReducedAttention(Attention):
    """Every token attends to a coarser grid: each window of `reduction` x `reduction` cells has one key and one value
    (section 3.3). As in the original, an incomplete last window has none; a grid smaller than one window is padded to
    it with zeros.
    """

    def __init__(self, width: int, heads: int, reduction: int, eps: float, qkv_bias: bool = True, dropout: float = 0.0,
                 attention_dropout: float = 0.0):  # fmt: skip
        super().__init__(width, heads, dropout, attention_dropout)
        self.q = nn.Linear(width, width, bias=qkv_bias)
        self.kv = nn.Linear(width, 2 * width, bias=qkv_bias)
        self.reduction = reduction
        self.sr = nn.Conv2d(width, width, reduction, reduction) if reduction > 1 else nn.Identity()
        self.norm = nn.LayerNorm(width, eps) if reduction > 1 else nn.Identity()

    def project(self, x: Tensor, layout: TokenLayout) -> AttentionInputs:
        k, v = self.kv(self.reduced(x, layout.grid)).chunk(2, dim=-1)
        q, k, v = (split_heads(t, self.heads) for t in (self.q(x), k, v))
        return AttentionInputs(q, k, v)

    def locate(self, x: Tensor, layout: TokenLayout) -> AttentionLayout:
        queries = side_of(layout)
        if self.reduction == 1:
            return cross_attention_layout(queries, queries)
        r, (h, w), (down, over) = self.reduction, layout.grid, layout.stride
        keys = TokenLayout((max(1, h // r), max(1, w // r)), (down * min(r, h), over * min(r, w)))
        return cross_attention_layout(queries, side_of(keys))

    def reduced(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        if self.reduction == 1:
            return x
        x = x.mT.unflatten(2, grid)  # [B N D] -> [B D h w]
        below, right = (max(0, self.reduction - n) for n in grid)
        if below or right:
            x = F.pad(x, (0, right, 0, below))
        return self.norm(self.sr(x).flatten(2).mT)  # [B M D]


class Block(nn.Module):
    """x + attention, x + MLP, both after their norm; `stage` counts from 0."""

    def __init__(self, config: Config, stage: int, drop_path: float):
        super().__init__()
        width, heads, reduction = config.widths[stage], config.heads[stage], config.reductions[stage]
        self.norm1 = nn.LayerNorm(width, config.eps)
        self.attn = ReducedAttention(
            width, heads, reduction, config.inner_eps, config.qkv_bias, config.dropout, config.attention_dropout
        )
        self.norm2 = nn.LayerNorm(width, config.eps)
        self.mlp = Mlp(width, int(width * config.mlp_ratios[stage]), dropout=config.dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, layout: TokenLayout) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), layout))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PositionTable(Position):
    """A learned vector per cell, bilinear on another grid; `tokens` rows before them for tokens without a cell."""

    def __init__(self, grid: tuple[int, int], width: int, tokens: int):
        super().__init__()
        self.grid, self.tokens = grid, tokens
        self.table = nn.Parameter(torch.empty(tokens + grid[0] * grid[1], width))

    def encoding(self, grid: tuple[int, int]) -> Tensor:
        return resample(self.table[self.tokens :], self.grid, grid, "bilinear")


class Stage(nn.Module):
    """A map [B C H W] -> the next one [B D h w], and the summary tokens [B T D], of which only the last stage has
    one."""

    def __init__(self, config: Config, stage: int, rates: Sequence[float]):
        super().__init__()
        width, tokens = config.widths[stage], int(stage == 3)
        inside, patch = (config.widths[stage - 1], 2) if stage else (config.channels, config.patch)
        self.stride = stride = config.patch << stage
        self.patch_embed = PatchEmbed(inside, width, (patch, patch))
        self.patch_norm = nn.LayerNorm(width, config.inner_eps)
        self.position = PositionTable(grid_of(config.size, (stride, stride)), width, tokens)
        self.tokens = nn.Parameter(torch.empty(tokens, width)) if tokens else None
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, stage, rate) for rate in rates)

    def forward(self, x: Float[Tensor, "B C H W"]) -> tuple[Float[Tensor, "B D h w"], Float[Tensor, "B T D"]]:
        x = self.patch_norm(self.patch_embed(x))  # [B h w D]
        grid = (x.shape[1], x.shape[2])
        x = self.position(x).flatten(1, 2)
        leading = self.position.tokens
        layout = TokenLayout(grid, (self.stride, self.stride), leading, summaries=leading)
        if self.tokens is not None:
            tokens = self.tokens + self.position.table[:leading]
            x = torch.cat([tokens.expand(x.shape[0], -1, -1), x], dim=1)  # [B T+hw D]
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x, layout)
        return x[:, leading:].mT.unflatten(2, grid), x[:, :leading]


class PVT(Backbone):
    """Images [B C H W] -> `Features`: the class token after its norm, and four maps at strides 4, 8, 16, 32, not
    normed."""

    def __init__(self, config: Config):
        super().__init__()
        if config.reductions[-1] != 1:
            raise UsageError(
                f"the last stage has a class token, so its reduction must be 1, not {config.reductions[-1]}",
                f"use reductions {(*config.reductions[:3], 1)}",
            )
        self.config = config
        rates = iter(drop_rates(config.drop_path, sum(config.depths), "linear"))
        self.stages = nn.ModuleList(
            Stage(config, i, [next(rates) for _ in range(n)]) for i, n in enumerate(config.depths)
        )
        self.norm = nn.LayerNorm(config.widths[-1], config.eps)
        self.summary_widths, self.map_widths = config.widths[-1:], config.widths
        self.strides = tuple(config.patch << i for i in range(4))
        initialise(self)

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return [block for stage in self.stages for block in stage.get_submodule("blocks").children()]

    def forward(self, images: Float[Tensor, "B C H W"]) -> Features:
        x, maps = images, []
        for stage in self.stages:
            x, tokens = stage(x)
            maps.append(x)
        return Features((self.norm(tokens[:, 0]),), tuple(maps))


def build(config: Config) -> PVT:
    """A PVT, freshly initialised."""
    return PVT(config)


def initialise(model: nn.Module) -> None:
    """Linear weights, positions and the class token trunc-normal 0.02, biases zero; convolutions torch's defaults."""
    for m in model.modules():
        if isinstance(m, nn.Linear):
            nn.init.trunc_normal_(m.weight, std=0.02)
            if m.bias is not None:
                nn.init.zeros_(m.bias)
        elif isinstance(m, PositionTable):
            nn.init.trunc_normal_(m.table, std=0.02)
        elif isinstance(m, Stage) and m.tokens is not None:
            nn.init.trunc_normal_(m.tokens, std=0.02)
