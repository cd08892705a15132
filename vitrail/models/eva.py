"""EVA: exploring the limits of masked visual representation learning at scale (Fang et al. 2022,
arxiv.org/abs/2211.07636), EVA-02 (Fang et al. 2023, arxiv.org/abs/2303.11331) and the image towers of EVA-CLIP (Sun et
al. 2023, arxiv.org/abs/2303.15389).

A ViT whose keys have no bias and whose summary is the norm of the mean of the patches; that of a tower is its class
token. EVA-02 rotates queries and keys as well as adding a table, in units of the grid of its pre-training whatever the
size of an image; its MLPs are gated, from "base" on with a norm inside, and its towers have another norm before the
projection of the attention. The largest tower is an EVA whose norms come after the branches.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.layers.attention import PositionTerms, SelfAttention
from vitrail.layers.block import Block, MergingBlock
from vitrail.layers.init import Init
from vitrail.layers.merge import Merge
from vitrail.layers.mlp import Gelu
from vitrail.layers.patch import grid_of
from vitrail.layers.position import check_width
from vitrail.layers.resample import Resampling
from vitrail.layers.rotary import Rotation, axis_angles
from vitrail.models import vit
from vitrail.shapes import Float
from vitrail.types import Grid
from vitrail.validation import Fraction, NonNegative, Positive, PositiveFloat


@dataclass(frozen=True)
class Config:
    width: Positive = 768
    depth: Positive = 12
    heads: Positive = 12
    mlp: Literal["gelu", "swiglu"] = "swiglu"
    mlp_ratio: PositiveFloat = 8 / 3  # of a gated MLP the width of each half
    mlp_norm: bool = False  # a norm of the hidden layer of a gated MLP
    attention_norm: bool = False  # a norm before the projection of the attention
    patch: Positive = 14
    size: tuple[Positive, Positive] = (224, 224)  # (height, width) of the position table; any other size works too
    channels: Positive = 3
    position_resampling: Resampling = "bicubic"
    rope: bool = True
    rope_base: PositiveFloat = 10000.0
    rope_grid: tuple[Positive, Positive] = (16, 16)  # every image's patches are rotated as if they filled this grid
    norm_at: Literal["pre", "branch"] = "pre"  # "branch": after each branch, not before it
    pool: Literal["token", "mean"] = "mean"
    fc_norm: bool = True  # the last norm is after the mean, not before it
    qkv_bias: bool = True  # of queries and values; keys have none
    gelu: Gelu = "erf"
    eps: PositiveFloat = 1e-6
    dropout: Fraction = 0.0
    attention_dropout: Fraction = 0.0
    drop_path: NonNegative = 0.0
    merge: Merge = 0  # tokens that each block merges, or below 1 the share that all do; 0: none
    map_depths: tuple[Positive, ...] = ()  # numbers of blocks after which there is a map, besides the last
    init: Init = "truncated"


GIANT = Config(width=1408, depth=40, heads=16, mlp="gelu", mlp_ratio=6144 / 1408, rope=False)
BASE = Config(width=768, depth=12, heads=12, mlp_norm=True)
LARGE = Config(width=1024, depth=24, heads=16, mlp_ratio=2730 / 1024, mlp_norm=True)
TOWER = Config(pool="token", fc_norm=False, attention_norm=True, mlp_norm=True)

VARIANTS = {
    "giant":        replace(GIANT, size=(224, 224)),
    "giant_336":    replace(GIANT, size=(336, 336)),
    "giant_560":    replace(GIANT, size=(560, 560)),
    "giant_clip":   replace(GIANT, pool="token", fc_norm=False),
    "02_tiny":      Config(width=192, depth=12, heads=3),
    "02_tiny_336":  Config(width=192, depth=12, heads=3, size=(336, 336)),
    "02_small":     Config(width=384, depth=12, heads=6),
    "02_small_336": Config(width=384, depth=12, heads=6, size=(336, 336)),
    "02_base":      replace(BASE,  size=(224, 224)),
    "02_base_448":  replace(BASE,  size=(448, 448)),
    "02_large":     replace(LARGE, size=(224, 224)),
    "02_large_448": replace(LARGE, size=(448, 448)),
    "02_base_clip":      replace(TOWER, width=768, depth=12, heads=12, patch=16),
    "02_large_clip":     replace(TOWER, width=1024, depth=24, heads=16, mlp_ratio=2730 / 1024),
    "02_large_clip_336": replace(TOWER, width=1024, depth=24, heads=16, mlp_ratio=2730 / 1024, size=(336, 336)),
    "02_enormous_clip":  replace(GIANT, width=1792, depth=64, mlp_ratio=15360 / 1792, norm_at="branch", pool="token",
                                 fc_norm=False),
}  # fmt: skip


class ScaledRotation(Rotation):
    """Rows, then columns, in units of the grid `at`: those of any image span it. omega_j = base^(-j/(d/4)), j < d/4."""

    def __init__(self, head_width: int, base: float, at: Grid, grid: Grid):
        super().__init__()
        check_width(head_width, 4, "axial RoPE (width of one head)")
        self.bands, self.base, self.at, self.grid = head_width // 4, base, (at[0], at[1]), grid

    def angles(self, grid: Grid, device: torch.device | None = None) -> Tensor:
        y, x = (
            axis_angles(count, self.bands, self.base, device) * (own / count)
            for count, own in zip(grid, self.at, strict=True)
        )
        return torch.cat([y.repeat_interleave(grid[1], dim=0), x.repeat(grid[0], 1)], dim=1)


class NormedLinear(nn.Linear):
    """A linear layer behind a norm.

    It is an `nn.Linear` because weight decay and initialisation depend on the module's class.
    """

    def __init__(self, width: int, eps: float):
        super().__init__(width, width)
        self.norm = nn.LayerNorm(width, eps)

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        return F.linear(self.norm(x), self.weight, self.bias)


class NormedSwiGLU(nn.Module):
    """fc2(norm(silu(gate) * value)), gate and value from one projection (Fang et al. 2023, section 2.1)."""

    def __init__(self, width: int, hidden: int, eps: float, dropout: float = 0.0):
        super().__init__()
        self.w12 = nn.Linear(width, 2 * hidden)
        self.norm = nn.LayerNorm(hidden, eps)
        self.w3 = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        gate, value = self.w12(x).chunk(2, dim=-1)
        x = self.norm(self.dropout(F.silu(gate) * value))
        return self.dropout(self.w3(x))


class EVA(vit.ViT):
    """Images [B C H W] -> `Features`: a summary, and the patches as a map."""

    def __init__(self, config: Config):
        super().__init__(vit.shared_config(config), partial(block, config))
        self.config = config


def build(config: Config) -> EVA:
    """An EVA, freshly initialised."""
    return EVA(config)


def block(config: Config, drop_path: float) -> Block | MergingBlock:
    grid, width = grid_of(config.size, (config.patch, config.patch)), config.width
    turns = ScaledRotation(width // config.heads, config.rope_base, config.rope_grid, grid) if config.rope else None
    bias: bool | Literal["keyless"] = "keyless" if config.qkv_bias else False
    terms = PositionTerms(turns)
    attn = SelfAttention(width, config.heads, bias, None, config.dropout, config.attention_dropout, terms)
    if config.attention_norm:
        attn.proj = NormedLinear(width, config.eps)
    made = vit.build_block(vit.shared_config(config), drop_path, attn)
    if config.mlp == "swiglu" and config.mlp_norm:
        made.mlp = NormedSwiGLU(width, round(width * config.mlp_ratio), config.eps, config.dropout)
    return made
