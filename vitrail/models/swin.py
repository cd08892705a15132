"""Swin: hierarchical vision transformer using shifted windows (Liu et al. 2021, arxiv.org/abs/2103.14030).

Four stages on ever coarser maps. Blocks attend inside windows, alternately regular and shifted, so that attention is
linear in the number of pixels; between stages four neighbours merge into one. Any image size: patches, merging and
windows pad with zeros where the size is not divisible, and the window size is the one for `Config.size`. In a stage
whose map is smaller than the window, the window is the whole map.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.contracts import Backbone
from vitrail.layers.attention import Attention, AttentionInputs, split_heads
from vitrail.layers.drop import DropPath, drop_rates
from vitrail.layers.init import zero
from vitrail.layers.mlp import Mlp
from vitrail.layers.patch import PatchEmbed, grid_of
from vitrail.layers.relative import RelativeBias
from vitrail.layers.resample import resample_bias
from vitrail.layers.token_layout import AttentionLayout, self_attention_layout
from vitrail.layers.windows import Windows, add_mask, attend_windows
from vitrail.shapes import Float
from vitrail.types import Features, TokenLayout
from vitrail.validation import Fraction, Positive, PositiveFloat

STAGES = range(4)


@dataclass(frozen=True)
class Config:
    width: Positive = 96  # of the first stage; each stage doubles it
    depths: tuple[Positive, Positive, Positive, Positive] = (2, 2, 6, 2)  # blocks of each stage
    heads: tuple[Positive, Positive, Positive, Positive] = (3, 6, 12, 24)
    window: Positive | tuple[Positive, Positive, Positive, Positive] = 7  # patches along a side, or those of each stage
    mlp_ratio: PositiveFloat = 4.0
    patch: Positive = 4
    size: tuple[Positive, Positive] = (224, 224)  # (height, width) that the windows fit; any other works too
    channels: Positive = 3
    qkv_bias: bool = True
    map_norm: bool = True  # the last map is after the final norm; False: before it, for a head that norms all maps
    eps: PositiveFloat = 1e-5
    dropout: Fraction = 0.0
    attention_dropout: Fraction = 0.0
    drop_path: Fraction = 0.0


VARIANTS = {
    "tiny":      Config(width=96,  depths=(2, 2, 6, 2),  heads=(3, 6, 12, 24)),
    "small":     Config(width=96,  depths=(2, 2, 18, 2), heads=(3, 6, 12, 24)),
    "base":      Config(width=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32)),
    "large":     Config(width=192, depths=(2, 2, 18, 2), heads=(6, 12, 24, 48)),
    "base_384":  Config(width=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32),  window=12, size=(384, 384)),
    "large_384": Config(width=192, depths=(2, 2, 18, 2), heads=(6, 12, 24, 48), window=12, size=(384, 384)),
}  # fmt: skip


class WindowAttention(Attention):
    """The cells of a window [B*n N D] attend to each other, with a learned bias for every displacement."""

    def __init__(self, config: Config, stage: int):
        width, heads = config.width << stage, config.heads[stage]
        super().__init__(width, heads, config.dropout, config.attention_dropout)
        self.qkv = nn.Linear(width, 3 * width, bias=config.qkv_bias)
        self.relative = RelativeBias(windows(config)[stage], heads)

    def project(self, x: Tensor, mask: Tensor | None, layout: TokenLayout) -> AttentionInputs:
        q, k, v = (split_heads(t, self.heads) for t in self.qkv(x).chunk(3, dim=-1))  # [B*n h N d]
        return AttentionInputs(q, k, v, add_mask(self.relative(), mask, x.shape[0]))

    def locate(self, x: Tensor, mask: Tensor | None, layout: TokenLayout) -> AttentionLayout:
        return self_attention_layout(layout)


class Block(nn.Module):
    """x + attention in windows, x + MLP, on a map [B H W D]; each branch after its norm."""

    def __init__(self, config: Config, stage: int, shifted: bool, drop_path: float):
        super().__init__()
        width = config.width << stage
        self.windows = stage_windows(config, stage, shifted)
        self.norm1, self.norm2 = nn.LayerNorm(width, config.eps), nn.LayerNorm(width, config.eps)
        self.attn = WindowAttention(config, stage)
        self.mlp = Mlp(width, int(width * config.mlp_ratio), dropout=config.dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, layout: TokenLayout) -> Tensor:
        x = x + self.drop_path(attend_windows(self.attn, self.norm1(x), layout, self.windows))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Merge(nn.Module):
    """Four neighbours become one cell of twice the width: [B H W D] -> [B H/2 W/2 2D]."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.norm = nn.LayerNorm(4 * width, eps)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Float[Tensor, "B H W D"]) -> Float[Tensor, "B _ _ 2*D"]:
        return self.reduction(self.norm(four_in_one(x)))


class Stage(nn.Module):
    """Patch merging, except before the first stage, and blocks at one resolution, of `stride` pixels per cell."""

    def __init__(self, downsample: nn.Module, blocks: list[nn.Module], stride: int):
        super().__init__()
        self.downsample, self.stride = downsample, stride
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Float[Tensor, "B _ _ _"]) -> Float[Tensor, "B h w D"]:
        x = self.downsample(x)
        layout = TokenLayout((x.shape[1], x.shape[2]), (self.stride, self.stride))
        for block in self.blocks:
            x = block(x, layout)
        return x


class Swin(Backbone):
    """Images [B C H W] -> `Features`: the mean of the last map, and the maps of the four stages at strides 4, 8, 16, 32
    (for a patch of 4), the last of them normed with `map_norm`.

    Both Swins share it: `config` is this file's or that of `swin_v2`, which passes its own classes of block and
    merging.
    """

    def __init__(self, config: Any, block: Callable[..., nn.Module] = Block, merge: Callable[..., nn.Module] = Merge):
        super().__init__()
        self.config = config
        width, eps = config.width, config.eps
        self.patch_embed = PatchEmbed(config.channels, width, (config.patch, config.patch))
        self.patch_norm = nn.LayerNorm(width, eps)
        self.dropout = nn.Dropout(config.dropout)
        rates = iter(drop_rates(config.drop_path, sum(config.depths), "linear"))
        self.layers = nn.ModuleList()
        for s, depth in enumerate(config.depths):
            downsample = merge(width << s - 1, eps) if s else nn.Identity()
            self.layers.append(
                Stage(downsample, [block(config, s, i % 2 == 1, next(rates)) for i in range(depth)], config.patch << s)
            )
        self.norm = nn.LayerNorm(width << 3, eps)
        self.map_widths = tuple(width << s for s in STAGES)
        self.summary_widths, self.strides = (width << 3,), tuple(config.patch << s for s in STAGES)
        for m in self.modules():
            if isinstance(m, nn.Linear):
                nn.init.trunc_normal_(m.weight, std=0.02)
                zero(m.bias)

    @property
    def blocks(self) -> list[nn.Module]:
        return [block for stage in self.layers for block in stage.get_submodule("blocks").children()]

    def forward(self, images: Float[Tensor, "B C H W"]) -> Features:
        x = self.dropout(self.patch_norm(self.patch_embed(images)))  # [B H W D]
        maps = []
        for stage in self.layers:
            x = stage(x)
            maps.append(x)
        x = self.norm(x)
        if self.config.map_norm:
            maps[-1] = x
        return Features((x.mean((1, 2)),), tuple(m.permute(0, 3, 1, 2) for m in maps))


def build(config: Config) -> Swin:
    """A Swin, freshly initialised."""
    return Swin(config)


def windows(config: Any) -> list[tuple[int, int]]:
    """The window of each stage: the config's, or the stage's whole map along an axis where that is smaller."""
    grids = [grid_of(config.size, (config.patch << s, config.patch << s)) for s in STAGES]
    sides = config.window if isinstance(config.window, tuple) else (config.window,) * len(grids)
    return [(min(side, grid[0]), min(side, grid[1])) for side, grid in zip(sides, grids, strict=True)]


def stage_windows(config: Any, stage: int, shifted: bool) -> Windows:
    size = windows(config)[stage]
    return Windows(size, (size[0] // 2, size[1] // 2) if shifted else (0, 0))


def four_in_one(x: Tensor) -> Tensor:
    """[B H W D] -> [B H/2 W/2 4D], padded with zeros to even sides. Of the four, the lower one comes before the right
    one."""
    if x.shape[1] % 2 or x.shape[2] % 2:
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
    x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # [B H/2 row W/2 column D]
    return x.permute(0, 1, 3, 4, 2, 5).flatten(3)


def refit(tensors: Mapping[str, Tensor], old_config: Config, config: Config) -> dict[str, Tensor]:
    """The tensors of a backbone of `old_config` for `config`: relative-position tables are resampled to its windows,
    bicubic, as in the original."""
    old, new = windows(old_config), windows(config)
    resampled = dict(tensors)
    for name, table in tensors.items():
        if name.endswith("attn.relative.table"):
            stage = int(name.split(".")[1])
            resampled[name] = resample_bias(table, old[stage], new[stage])
    return resampled
