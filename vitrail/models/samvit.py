"""SAM-ViT: the image encoder of Segment Anything (Kirillov et al. 2023, arxiv.org/abs/2304.02643), a plain ViT for
dense tasks as in ViTDet (Li et al. 2022, arxiv.org/abs/2203.16527).

No class token. Most blocks attend in windows of 14x14 patches, a few to the whole image. The logits of attention get a
term for the rows and one for the columns between two patches, each the query times a learned vector ("decomposed
relative positions", Li et al. 2021, MViTv2, section 4.1). A neck of two convolutions takes the place of the final norm.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from vitrail.contracts import Backbone
from vitrail.layers.attention import Attention, AttentionInputs, split_heads
from vitrail.layers.drop import DropPath, drop_rates
from vitrail.layers.init import initialise
from vitrail.layers.mlp import Mlp
from vitrail.layers.patch import PatchEmbed, grid_of
from vitrail.layers.position import Learned
from vitrail.layers.resample import resample_1d
from vitrail.layers.token_layout import AttentionLayout, self_attention_layout
from vitrail.layers.windows import Windows, attend_windows, local_depths
from vitrail.shapes import Float
from vitrail.types import Features, Grid, TokenLayout
from vitrail.validation import Count, Fraction, Positive, PositiveFloat


@dataclass(frozen=True)
class Config:
    width: Positive = 768
    depth: Positive = 12
    heads: Positive = 12
    mlp_ratio: PositiveFloat = 4.0
    patch: Positive = 16
    size: tuple[Positive, Positive] = (1024, 1024)  # (height, width) of the position tables; any other works too
    channels: Positive = 3
    window: Count = 14  # patches along a side; 0: all blocks are global
    global_blocks: tuple[Positive, ...] = ()  # their numbers; (): four, evenly spread
    position: Literal["learned", "none"] = "learned"  # added to the patches
    relative: bool = True  # terms for rows and columns in attention
    neck: Count = 256  # channels of the map; 0: a norm instead of the neck
    qkv_bias: bool = True
    eps: PositiveFloat = 1e-6
    dropout: Fraction = 0.0
    attention_dropout: Fraction = 0.0
    drop_path: Fraction = 0.0


VARIANTS = {
    "base":     Config(width=768,  depth=12, heads=12),
    "large":    Config(width=1024, depth=24, heads=16),
    "huge":     Config(width=1280, depth=32, heads=16),
    "base_224": Config(width=768,  depth=12, heads=12, size=(224, 224), position="none", neck=0),
}  # fmt: skip


class RelativeAxes(nn.Module):
    """The term of attention for the rows between a query and a key, and that for the columns, each the query times the
    vector of a displacement: tables [2h-1 d] and [2w-1 d]. On another grid they are resampled, linear."""

    def __init__(self, grid: Grid, head_width: int):
        super().__init__()
        self.rows = nn.Parameter(torch.zeros(2 * grid[0] - 1, head_width))
        self.columns = nn.Parameter(torch.zeros(2 * grid[1] - 1, head_width))

    def forward(self, queries: Float[Tensor, "B h N d"], grid: Grid) -> Float[Tensor, "B h N N"]:
        q = queries.unflatten(2, grid)  # [B h y x d]
        down = torch.einsum("bnyxd,ykd->bnyxk", q, by_displacement(self.rows, grid[0]))
        across = torch.einsum("bnyxd,xkd->bnyxk", q, by_displacement(self.columns, grid[1]))
        bias: Tensor = (down[..., :, None] + across[..., None, :]).flatten(4).flatten(2, 3)
        return bias


def by_displacement(table: Tensor, count: int) -> Float[Tensor, "{count} {count} d"]:
    """The vector for every query and key along an axis of `count` cells."""
    places = torch.arange(count, device=table.device)
    return resample_1d(table, 2 * count - 1)[places[:, None] - places + count - 1]


class RelativeAttention(Attention):
    """The cells of a window or of the whole map [B*n N D] attend to each other."""

    def __init__(self, config: Config, grid: Grid):
        super().__init__(config.width, config.heads, config.dropout, config.attention_dropout)
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=config.qkv_bias)
        self.relative = RelativeAxes(grid, config.width // config.heads) if config.relative else None

    def project(self, x: Tensor, mask: Tensor | None, layout: TokenLayout) -> AttentionInputs:
        q, k, v = (split_heads(t, self.heads) for t in self.qkv(x).chunk(3, dim=-1))  # [B*n h N d]
        grid = layout.groups.size if isinstance(layout.groups, Windows) else layout.grid
        return AttentionInputs(q, k, v, None if self.relative is None else self.relative(q, grid))

    def locate(self, x: Tensor, mask: Tensor | None, layout: TokenLayout) -> AttentionLayout:
        return self_attention_layout(layout)


class Block(nn.Module):
    """x + attention, x + MLP, on a map [B H W D]; each branch after its norm."""

    def __init__(self, config: Config, local: bool, drop_path: float):
        super().__init__()
        window = (config.window, config.window)
        self.windows = Windows(window) if local else None
        self.norm1, self.norm2 = nn.LayerNorm(config.width, config.eps), nn.LayerNorm(config.width, config.eps)
        grid = window if local else grid_of(config.size, (config.patch, config.patch))
        self.attn = RelativeAttention(config, grid)
        self.mlp = Mlp(config.width, int(config.width * config.mlp_ratio), dropout=config.dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, layout: TokenLayout) -> Tensor:
        x = x + self.drop_path(self.attend(self.norm1(x), layout))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def attend(self, x: Float[Tensor, "B H W D"], layout: TokenLayout) -> Float[Tensor, "B H W D"]:
        if self.windows is not None:
            return attend_windows(self.attn, x, layout, self.windows)
        whole: Tensor = self.attn(x.flatten(1, 2), None, layout).unflatten(1, layout.grid)
        return whole


class MapNorm(nn.Module):
    """LayerNorm over the channels of every cell of a map [B C H W]."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, 1e-6)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SamViT(Backbone):
    """Images [B C H W] -> `Features`: the mean of the map, and the map after the neck [B neck h w]."""

    blocks: nn.ModuleList

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        width, out, patch = config.width, config.neck or config.width, (config.patch, config.patch)
        self.patch_embed = PatchEmbed(config.channels, width, patch)
        learned = config.position == "learned"
        self.position = (
            Learned(grid_of(config.size, patch), width, resampling="antialias") if learned else nn.Identity()
        )
        self.dropout = nn.Dropout(config.dropout)
        local = local_depths(config.window, config.global_blocks, config.depth)
        rates = drop_rates(config.drop_path, config.depth, "linear")
        self.blocks = nn.ModuleList(Block(config, i in local, rate) for i, rate in enumerate(rates, start=1))
        self.neck = nn.Sequential(
            nn.Conv2d(width, out, 1, bias=False), MapNorm(out),
            nn.Conv2d(out, out, 3, padding=1, bias=False), MapNorm(out),
        ) if config.neck else MapNorm(out)  # fmt: skip
        self.summary_widths, self.map_widths, self.strides = (out,), (out,), (config.patch,)
        initialise(self, "truncated")

    def forward(self, images: Float[Tensor, "B C H W"]) -> Features:
        x = self.dropout(self.position(self.patch_embed(images)))  # [B h w D]
        layout = TokenLayout((x.shape[1], x.shape[2]), (self.config.patch, self.config.patch))
        for block in self.blocks:
            x = block(x, layout)
        x = self.neck(x.permute(0, 3, 1, 2))  # [B C h w]
        return Features((x.mean((2, 3)),), (x,))


def build(config: Config) -> SamViT:
    """An image encoder of SAM, freshly initialised."""
    return SamViT(config)
