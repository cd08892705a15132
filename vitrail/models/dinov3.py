"""DINOv3 (Siméoni et al. 2025, arxiv.org/abs/2508.10104): ViTs trained without labels, whose patches are the better
features for dense tasks.

A ViT without position table: queries and keys are rotated by the places of the patches' centres on the image, from -1
to 1 along both axes whatever its size. Four registers, LayerScale, no bias of the keys; the MLPs of "small_plus",
"huge_plus" and "7b" are gated. The original summarises an image by its class token, timm by the mean of the patches.
"""

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from vitrail.layers.attention import PositionTerms, SelfAttention
from vitrail.layers.block import Block, MergingBlock
from vitrail.layers.init import Init
from vitrail.layers.merge import Merge
from vitrail.layers.mlp import Gelu
from vitrail.layers.patch import grid_of
from vitrail.layers.position import check_width
from vitrail.layers.rotary import Rotation
from vitrail.models import vit
from vitrail.types import Grid
from vitrail.validation import Count, Fraction, NonNegative, Positive, PositiveFloat


@dataclass(frozen=True)
class Config:
    width: Positive = 768
    depth: Positive = 12
    heads: Positive = 12
    mlp: Literal["gelu", "swiglu"] = "gelu"
    mlp_ratio: PositiveFloat = 4.0  # of a gated MLP the width of each half
    patch: Positive = 16
    size: tuple[Positive, Positive] = (256, 256)  # (height, width) of its own images; any other works too
    channels: Positive = 3
    registers: Count = 4
    pool: Literal["token", "mean"] = "token"
    rope_base: PositiveFloat = 100.0  # the longest period, in halves of the image; the shortest is 1
    qkv_bias: bool = True  # of queries and values; keys have none
    gelu: Gelu = "erf"
    eps: PositiveFloat = 1e-5
    layer_scale: float | None = 1e-5  # initial value
    dropout: Fraction = 0.0
    attention_dropout: Fraction = 0.0
    drop_path: NonNegative = 0.0
    merge: Merge = 0  # tokens that each block merges, or below 1 the share that all do; 0: none
    map_depths: tuple[Positive, ...] = ()  # numbers of blocks after which there is a map, besides the last
    init: Init = "truncated"


VARIANTS = {
    "small":      Config(width=384,  depth=12, heads=6),
    "small_plus": Config(width=384,  depth=12, heads=6,  mlp="swiglu"),
    "base":       Config(width=768,  depth=12, heads=12),
    "large":      Config(width=1024, depth=24, heads=16),
    "huge_plus":  Config(width=1280, depth=32, heads=20, mlp="swiglu"),
    "7b":         Config(width=4096, depth=40, heads=32, mlp="swiglu", mlp_ratio=2.0),
}  # fmt: skip


class CentredRotation(Rotation):
    """Positions are the centres of the patches in [-1, 1] along each axis; a whole turn in periods from 1 to nearly
    `base`: the first half of the angles by y, the second by x."""

    pairs = "half"

    def __init__(self, head_width: int, base: float, grid: Grid):
        super().__init__()
        check_width(head_width, 4, "axial RoPE (width of one head)")
        self.bands, self.base, self.grid = head_width // 4, base, grid

    def angles(self, grid: Grid, device: torch.device | None = None) -> Tensor:
        steps = torch.arange(self.bands, dtype=torch.float32, device=device) / self.bands
        turns = 2 * math.pi / self.base**steps
        y, x = (centres(count, device)[:, None] * turns for count in grid)
        return torch.cat([y.repeat_interleave(grid[1], dim=0), x.repeat(grid[0], 1)], dim=1)


class DINOv3(vit.ViT):
    """Images [B C H W] -> `Features`: the class token, and the patches as a map."""

    def __init__(self, config: Config):
        super().__init__(plain_config(config), partial(block, config))
        self.config = config


def build(config: Config) -> DINOv3:
    """A DINOv3, freshly initialised."""
    return DINOv3(config)


def plain_config(config: Config) -> vit.Config:
    return replace(vit.shared_config(config), position="none")


def block(config: Config, drop_path: float) -> Block | MergingBlock:
    grid = grid_of(config.size, (config.patch, config.patch))
    terms = PositionTerms(CentredRotation(config.width // config.heads, config.rope_base, grid))
    bias: bool | Literal["keyless"] = "keyless" if config.qkv_bias else False
    attn = SelfAttention(config.width, config.heads, bias, None, config.dropout, config.attention_dropout, terms)
    return vit.build_block(plain_config(config), drop_path, attn)


def centres(count: int, device: torch.device | None = None) -> Tensor:
    """The centres of so many cells that fill [-1, 1]: [count], float32."""
    return (2 * torch.arange(count, dtype=torch.float32, device=device) + 1) / count - 1
