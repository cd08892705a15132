"""Swin V2: scaling up capacity and resolution (Liu et al. 2021, arxiv.org/abs/2111.09883).

`swin` with three changes: norms come after the branches and start at zero, so that blocks start as identities
(res-post-norm); attention uses the cosine with a learned temperature; a small MLP computes the relative bias from the
logarithm of the displacement, so that weights transfer to other windows. For weights trained with other windows, state
those in `pretrained_windows`: displacements are then measured in units of them.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.layers.attention import Attention, AttentionInputs, split_heads
from vitrail.layers.drop import DropPath
from vitrail.layers.mlp import Mlp
from vitrail.layers.relative import Displacements, displacement_map, relative_index
from vitrail.layers.token_layout import AttentionLayout, self_attention_layout
from vitrail.layers.windows import add_mask, attend_windows
from vitrail.models.swin import Swin, four_in_one, stage_windows, windows
from vitrail.shapes import Float
from vitrail.types import TokenLayout
from vitrail.validation import Fraction, Positive, PositiveFloat


@dataclass(frozen=True)
class Config:
    width: Positive = 96  # of the first stage; each stage doubles it
    depths: tuple[Positive, Positive, Positive, Positive] = (2, 2, 6, 2)  # blocks of each stage
    heads: tuple[Positive, Positive, Positive, Positive] = (3, 6, 12, 24)
    window: Positive = 8  # patches along a side
    # windows of each stage in pre-training, where they differ
    pretrained_windows: tuple[Positive, Positive, Positive, Positive] | None = None
    mlp_ratio: PositiveFloat = 4.0
    patch: Positive = 4
    size: tuple[Positive, Positive] = (256, 256)  # (height, width) that the windows fit; any other works too
    channels: Positive = 3
    qkv_bias: bool = True  # of queries and values; keys have none
    map_norm: bool = True  # the last map is after the final norm; False: before it, for a head that norms all maps
    eps: PositiveFloat = 1e-5
    dropout: Fraction = 0.0
    attention_dropout: Fraction = 0.0
    drop_path: Fraction = 0.0


VARIANTS = {
    "tiny_w8":   Config(width=96,  depths=(2, 2, 6, 2),  heads=(3, 6, 12, 24),  window=8),
    "small_w8":  Config(width=96,  depths=(2, 2, 18, 2), heads=(3, 6, 12, 24),  window=8),
    "base_w8":   Config(width=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32),  window=8),
    "tiny_w16":  Config(width=96,  depths=(2, 2, 6, 2),  heads=(3, 6, 12, 24),  window=16),
    "small_w16": Config(width=96,  depths=(2, 2, 18, 2), heads=(3, 6, 12, 24),  window=16),
    "base_w16":  Config(width=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32),  window=16),
    "base_w12_192":  Config(width=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32),  window=12, size=(192, 192)),
    "large_w12_192": Config(width=192, depths=(2, 2, 18, 2), heads=(6, 12, 24, 48), window=12, size=(192, 192)),
    "base_w12to16_256":  Config(width=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32),  window=16,
                                pretrained_windows=(12, 12, 12, 6)),
    "large_w12to16_256": Config(width=192, depths=(2, 2, 18, 2), heads=(6, 12, 24, 48), window=16,
                                pretrained_windows=(12, 12, 12, 6)),
    "base_w12to24_384":  Config(width=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32),  window=24,
                                pretrained_windows=(12, 12, 12, 6), size=(384, 384)),
    "large_w12to24_384": Config(width=192, depths=(2, 2, 18, 2), heads=(6, 12, 24, 48), window=24,
                                pretrained_windows=(12, 12, 12, 6), size=(384, 384)),
}  # fmt: skip

HIDDEN = 512  # hidden width of the MLP of the relative bias


class ContinuousBias(Displacements):
    """The bias [heads N N] of a window, computed from displacements by linear, ReLU, linear; at most 16 (section 3.3).
    Its weights replace a position table and are plain parameters, not linear layers, so that weight decay excludes
    them.
    """

    places: Tensor
    index: Tensor

    def __init__(self, window: tuple[int, int], heads: int, pretrained: tuple[int, int]):
        super().__init__()
        self.window = window
        self.weight1, self.bias1 = nn.Parameter(torch.empty(HIDDEN, 2)), nn.Parameter(torch.zeros(HIDDEN))
        self.weight2 = nn.Parameter(torch.empty(heads, HIDDEN))
        nn.init.trunc_normal_(self.weight1, std=0.02)
        nn.init.trunc_normal_(self.weight2, std=0.02)
        y, x = (log_displacements(n, of) for n, of in zip(window, pretrained, strict=True))
        self.register_buffer("places", torch.cartesian_prod(y, x), persistent=False)  # [(2h-1)(2w-1) 2]
        self.register_buffer("index", relative_index(window), persistent=False)

    def forward(self) -> Tensor:
        return 16 * self.rows()[self.index].permute(2, 0, 1).sigmoid()  # [heads N N]

    def rows(self) -> Tensor:
        return F.linear(F.linear(self.places, self.weight1, self.bias1).relu(), self.weight2)  # [(2h-1)(2w-1) heads]

    def by_displacement(self) -> Tensor:
        return 16 * displacement_map(self.rows(), self.window).sigmoid()


class CosineAttention(Attention):
    """The cells of a window [B*n N D] attend to each other by the cosine of query and key, times a temperature per
    head."""

    def __init__(self, config: Config, stage: int):
        width, heads, window = config.width << stage, config.heads[stage], windows(config)[stage]
        super().__init__(width, heads, config.dropout, config.attention_dropout)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width)) if config.qkv_bias else None
        self.v_bias = nn.Parameter(torch.zeros(width)) if config.qkv_bias else None
        self.logit_scale = nn.Parameter(torch.full((heads, 1, 1), math.log(10)))
        pretrained = config.pretrained_windows
        self.relative = ContinuousBias(
            window, heads, window if pretrained is None else (pretrained[stage], pretrained[stage])
        )

    def project(self, x: Tensor, mask: Tensor | None, layout: TokenLayout) -> AttentionInputs:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        if self.q_bias is not None and self.v_bias is not None:
            q, v = q + self.q_bias, v + self.v_bias
        q, k, v = (split_heads(t, self.heads) for t in (q, k, v))  # [B*n h N d]
        scale = self.logit_scale.clamp(max=math.log(100)).exp()
        temperature = scale * q.shape[-1] ** 0.5  # attention divides by the root
        return AttentionInputs(unit(q) * temperature, unit(k), v, add_mask(self.relative(), mask, x.shape[0]))

    def locate(self, x: Tensor, mask: Tensor | None, layout: TokenLayout) -> AttentionLayout:
        return self_attention_layout(layout)


class Block(nn.Module):
    """x + norm(attention in windows), x + norm(MLP), on a map [B H W D]; both norms start at zero (section 3.2)."""

    def __init__(self, config: Config, stage: int, shifted: bool, drop_path: float):
        super().__init__()
        width = config.width << stage
        self.windows = stage_windows(config, stage, shifted)
        self.attn = CosineAttention(config, stage)
        self.mlp = Mlp(width, int(width * config.mlp_ratio), dropout=config.dropout)
        self.norm1, self.norm2 = nn.LayerNorm(width, config.eps), nn.LayerNorm(width, config.eps)
        self.drop_path = DropPath(drop_path)
        nn.init.zeros_(self.norm1.weight)
        nn.init.zeros_(self.norm2.weight)

    def forward(self, x: Tensor, layout: TokenLayout) -> Tensor:
        x = x + self.drop_path(self.norm1(attend_windows(self.attn, x, layout, self.windows)))
        return x + self.drop_path(self.norm2(self.mlp(x)))


class Merge(nn.Module):
    """Four neighbours become one cell of twice the width, normed after: [B H W D] -> [B H/2 W/2 2D]."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)
        self.norm = nn.LayerNorm(2 * width, eps)

    def forward(self, x: Float[Tensor, "B H W D"]) -> Float[Tensor, "B _ _ 2*D"]:
        return self.norm(self.reduction(four_in_one(x)))


def build(config: Config) -> Swin:
    """A Swin V2, freshly initialised."""
    return Swin(config, Block, Merge)


def unit(x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
    """Vectors normalised to length one. Zero vectors, such as keys of padding, stay zero: an eps would be lost in half
    precision."""
    length = x.norm(dim=-1, keepdim=True)
    return x / length.masked_fill(length == 0, 1)


def log_displacements(window: int, of: int) -> Tensor:
    """The displacements along an axis of a window, in units of a window of `of` cells (-8..8 when equal), on a
    logarithmic scale."""
    steps = torch.arange(1 - window, window, dtype=torch.float32) * 8 / max(of - 1, 1)
    return steps.sign() * (steps.abs() + 1).log2() / 3
