"""ViT: an image is worth 16x16 words (Dosovitskiy et al. 2020, arxiv.org/abs/2010.11929).

A grid of patches, a learned class token, a stack of identical blocks. Every patch attends to every other, so attention
is quadratic in the number of patches. Variations of later papers are fields of `Config`: no class token (mean of the
patches), a distillation token (DeiT), registers, other position encodings, other summaries (CLIP, MAE, SigLIP).
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vitrail.contracts import Backbone
from vitrail.errors import UsageError
from vitrail.layers.attention import SelfAttention, build_position_terms
from vitrail.layers.block import Block, MergingBlock, PatchEncoder, block_norm, feed_forward, set_windows
from vitrail.layers.drop import Schedule, drop_rates
from vitrail.layers.init import Init, ignore_empty, initialise
from vitrail.layers.merge import Merge, check_merge, merge_counts, unmerge_tokens
from vitrail.layers.mlp import Gelu
from vitrail.layers.norm import NormKind, norm
from vitrail.layers.patch import ConvStem, PatchEmbed, PyramidStem, drop_patches, grid_of, inner_depths, pair, patch_map
from vitrail.layers.pool import AttentionPool
from vitrail.layers.position import Learned, Resampling, build_position, concatenate
from vitrail.shapes import Float, Int
from vitrail.types import Features, TokenLayout
from vitrail.validation import Count, Fraction, Positive

Position = Literal[
    "none", "learned", "sincos1d", "sincos2d", "sincos2d_bv", "sincos2d_sum", "factorised", "relative",
    "relative_log", "rope", "rope_half", "learned_rope",
]  # fmt: skip
Pool = Literal["token", "mean", "attention"]


@dataclass(frozen=True)
class Config:
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    patch: int | tuple[int, int] = 16  # pixels, or (height, width) of a rectangular patch
    size: tuple[int, int] = (224, 224)  # (height, width) of the position tables; any other size works too
    channels: int = 3
    stem: Literal["patch", "conv", "pyramid"] = (
        "patch"  # "conv": of stride 2 (Xiao et al. 2021); "pyramid": a small CNN
    )
    stem_depth: Count = 0  # residual pairs of convolutions at each grid of the pyramid
    tokens: int = 1  # summaries: 0 the mean of the patches, 1 a class token, 2 class and distillation token
    registers: int = 0  # learned tokens that nothing reads out (Darcet et al. 2023)
    pool: Pool = "token"  # "mean": of the patches, also beside tokens; "attention": of a learned query (SigLIP)
    fc_norm: bool = False  # the last norm is after the mean of the patches, not before it (MAE, BEiT)
    norm_pre: bool = False  # a norm before the first block, and no bias of the patch embedding (CLIP)
    position: Position = "learned"
    position_tokens: bool = True  # a learned table has rows for the summary tokens as well (N+1 rows, not N)
    position_join: Literal["add", "concat"] = "add"
    position_init: Literal["normal", "xavier"] = "normal"
    position_resampling: Resampling = "bicubic"  # of a learned table at another size; published weights need their own
    rope_base: float = 100.0
    relative_width: Positive = 128  # hidden width of the MLP that computes the bias of "relative_log"
    attention_radius: Positive | None = None  # in patches; class token and registers attend to all
    window: Count = 0  # patches along a side of the windows in which local blocks attend (ViTDet); 0: all are global
    global_blocks: tuple[Positive, ...] = ()  # their numbers under `window`; (): four in all, evenly spread
    pre_logits: Count = 0  # width of the pre-training head's hidden layer; 0: none
    pre_logits_act: Literal["tanh", "relu", "none"] = "tanh"  # "none": a projection without bias (CLIP)
    mlp: Literal["gelu", "swiglu"] = "gelu"
    gelu: Gelu = "erf"
    norm: NormKind = "layer"
    norm_at: Literal["pre", "branch", "post", "none"] = "pre"  # "branch": after each; "post" and "none" are for study
    residual: bool = True  # False is for study
    eps: float = 1e-6
    qkv_bias: bool = True
    qk_norm: bool = False
    layer_scale: float | None = None  # initial value
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path: float = 0.0
    drop_path_schedule: Schedule = "linear"
    drop_path_skip: bool = False  # dropped branches are not computed
    patch_dropout: Fraction = 0.0  # share of the patches dropped in training (PatchDropout, Liu et al. 2022)
    merge: Merge = 0  # tokens that each block merges (Bolya et al. 2022), or below 1 the share that all do; 0: none
    map_depths: tuple[Positive, ...] = ()  # numbers of blocks after which there is a map, besides the last
    init: Init = "truncated"


VARIANTS = {
    "nano":     Config(width=96,   depth=3,  heads=3,  patch=8,  size=(28, 28), stem="conv", tokens=0),
    "pico":     Config(width=96,   depth=1,  heads=3,  patch=8,  size=(32, 32), stem="pyramid", tokens=0,
                       mlp_ratio=2.0),
    "micro":    Config(width=128,  depth=1,  heads=4,  patch=8,  size=(32, 32), stem="pyramid", stem_depth=1, tokens=0,
                       mlp_ratio=2.0),
    "tiny":     Config(width=192,  depth=12, heads=3),
    "small":    Config(width=384,  depth=12, heads=6),
    "medium":   Config(width=512,  depth=12, heads=8),
    "base":     Config(width=768,  depth=12, heads=12),
    "large":    Config(width=1024, depth=24, heads=16),
    "huge":     Config(width=1280, depth=32, heads=16, patch=14),
    "giant":    Config(width=1408, depth=40, heads=16, patch=14, mlp_ratio=6144 / 1408),
    "gigantic": Config(width=1664, depth=48, heads=16, patch=14, mlp_ratio=8192 / 1664),
}  # fmt: skip


class ViT(Backbone, PatchEncoder):
    """Images [B C H W] -> `Features`: a summary [B D] per token, and the patches as a map [B D h w].

    With `map_depths` there are several maps, all at the patch's stride: those between blocks are not normed, the last
    is after the final norm. Heads that use them have their own norms.
    """

    blocks: nn.ModuleList

    def __init__(self, config: Config, block: Callable[[float], nn.Module] | None = None):
        """block: builds the block of a drop rate, for families with blocks of their own."""
        super().__init__()
        self.config = config
        self.patch = pair(config.patch)  # pixels of a token, down and across
        width, patch = config.width, self.patch
        grid = grid_of(config.size, patch)
        self.patch_embed = stem(config, patch)
        self.position = position(config, grid)
        self.tokens = nn.Parameter(torch.empty(config.tokens, width)) if config.tokens else None
        self.registers = nn.Parameter(torch.empty(config.registers, width)) if config.registers else None
        self.dropout = nn.Dropout(config.dropout)
        self.patch_dropout, self.merge = check_patch_dropout(config), check_merging(config)
        self.norm_pre = norm(config.norm, width, config.eps) if config.norm_pre else nn.Identity()
        rates = drop_rates(config.drop_path, config.depth, config.drop_path_schedule)
        self.blocks = nn.ModuleList(map(block or partial(build_block, config), rates))
        set_windows(self.blocks, *check_windows(config))
        last = block_norm(config) if config.norm_at in ("pre", "branch") else nn.Identity()
        self.norm = nn.Identity() if config.fc_norm else last
        self.fc_norm = last if config.fc_norm else nn.Identity()
        parts = (block_norm(config), feed_forward(config)) if config.pool == "attention" else None
        self.attn_pool = AttentionPool(width, config.heads, *parts) if parts else None
        self.pre_logits = pre_logits(config)
        self.has_summary_layers = config.pool == "attention" or config.pre_logits > 0
        self.leading = config.tokens + config.registers  # tokens before the patches, and those that are summaries
        self.summaries = config.tokens if config.pool == "token" else 0
        self.summary_widths = (config.pre_logits or width,) * max(1, self.summaries)
        self.has_distillation_token = self.summaries == 2
        bound = (config.window, config.attention_radius, "relative" in config.position, config.merge)
        special = any(bound) or config.position_resampling == "dino"  # whose own grid is a case of its own
        self.any_size_from = 0 if special or block is not None else 2 * max(patch)
        self.inner_depths = inner_depths(config.map_depths, config.depth)  # blocks before the maps besides the last
        self.map_widths, self.strides = ((n,) * (len(self.inner_depths) + 1) for n in (width, patch[0]))
        initialise(self, config.init)
        for tokens in (self.tokens, self.registers):
            if tokens is not None:
                nn.init.normal_(tokens, std=0.02)
        ignore_empty(self)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Features:
        x = self.patch_embed(images)  # [B h w D]
        grid = (x.shape[1], x.shape[2])
        dropped = self.patch_dropout if self.training else 0.0
        patches, kept = drop_patches(self.position(x).flatten(1, 2), dropped)  # [B hw D], or of fewer patches
        layout = TokenLayout(grid, self.patch, self.leading, self.summaries, kept=kept)
        x = self.norm_pre(self.dropout(self.behind_tokens(patches)))  # [B T+R+hw D]
        maps = []
        counts = merge_counts(self.merge, layout.cells, len(self.blocks))
        for done, (block, count) in enumerate(zip(self.blocks, counts, strict=True), start=1):
            x, layout = block(x, layout, count) if self.merge else (block(x, layout), layout)
            if done in self.inner_depths:
                maps.append(patch_map(*unmerge_tokens(x, layout)))
        x, layout = unmerge_tokens(self.norm(x), layout)
        maps.append(patch_map(x, layout))
        return Features(tuple(self.pre_logits(self.fc_norm(s)) for s in self.summarise(x, layout)), tuple(maps))

    def encode_visible(
        self, images: Float[Tensor, "B C H W"], visible: Int[Tensor, "B n"]
    ) -> tuple[Float[Tensor, "B N D"], TokenLayout]:
        """See `PatchEncoder`. There is no patch dropout on top."""
        x = self.patch_embed(images)  # [B h w D]
        layout = TokenLayout((x.shape[1], x.shape[2]), self.patch, self.leading, self.summaries, kept=visible)
        patches = self.position(x).flatten(1, 2).take_along_dim(visible[..., None], 1)
        x = self.norm_pre(self.dropout(self.behind_tokens(patches)))
        for block in self.blocks:
            x = block(x, layout)
        return self.fc_norm(self.norm(x)), layout  # one of them is none

    def summarise(self, x: Tensor, layout: TokenLayout) -> tuple[Tensor, ...]:
        """The summaries [B D] of a sequence [B T+R+N D]."""
        if self.attn_pool is not None:
            return (self.attn_pool(x, layout),)
        return x[:, : layout.summaries].unbind(1) if layout.summaries else (x[:, layout.leading :].mean(1),)

    def behind_tokens(self, patches: Tensor) -> Tensor:
        """The patches [B N D] with the tokens before them, [B T+R+N D]. Registers have no position."""
        leading: list[Tensor] = []
        if self.tokens is not None:
            learned = isinstance(self.position, Learned) and self.position.tokens > 0
            leading.append(self.tokens + self.position.token_rows if learned else self.tokens)  # type: ignore[operator]
        if self.registers is not None:
            leading.append(self.registers)
        if not leading:
            return patches.contiguous()  # as `cat` returns them: every norm would copy them otherwise
        return torch.cat([torch.cat(leading).expand(patches.shape[0], -1, -1), patches], dim=1)


def build(config: Config) -> ViT:
    """A ViT, freshly initialised."""
    return ViT(config)


def build_block(config: Config, drop_path: float, attn: SelfAttention | None = None) -> Block | MergingBlock:
    """attn: of families with an attention of their own."""
    return (MergingBlock if config.merge else Block)(config, drop_path, attn or attention(config))


def shared_config(config: Any) -> Config:
    """The config of the plain ViT inside another family's model: fields of the same name are the same."""
    names = {f.name for f in fields(Config)} & {f.name for f in fields(config)}
    return Config(**{name: getattr(config, name) for name in names})


def stem(config: Config, patch: tuple[int, int]) -> nn.Module:
    if config.stem == "patch":
        return PatchEmbed(config.channels, config.width, patch, bias=not config.norm_pre)
    if patch[0] != patch[1]:
        raise UsageError(
            f"the convolutional stem needs a square patch, not {patch[0]}x{patch[1]}", 'use stem="patch", or one number'
        )
    if config.stem == "pyramid":
        return PyramidStem(config.channels, config.width, patch[0], config.stem_depth)
    return ConvStem(config.channels, config.width, patch[0])


def position(config: Config, grid: tuple[int, int]) -> nn.Module:
    """The encoding added to the patches before the first block; relative and rotary positions act in the blocks."""
    tokens = config.tokens if config.position_tokens and config.position_join == "add" else 0
    kind, init, resampling = config.position, config.position_init, config.position_resampling
    table = build_position(kind, grid, config.width, tokens, init, resampling)
    return concatenate(table, kind, config.width) if config.position_join == "concat" else table or nn.Identity()


def attention(config: Config) -> SelfAttention:
    grid, leading = grid_of(config.size, pair(config.patch)), config.tokens + config.registers
    head_width, radius = config.width // config.heads, config.attention_radius
    numbers = (config.heads, head_width, config.rope_base, radius, config.relative_width)
    terms = build_position_terms(config.position, grid, leading, *numbers)
    qk_norm = config.eps if config.qk_norm else None
    return SelfAttention(
        config.width, config.heads, config.qkv_bias, qk_norm, config.dropout, config.attention_dropout, terms
    )


def needs_grid(config: Config) -> str:
    """The setting by which attention depends on where in the grid all patches are; "" where there is none."""
    if config.position in ("rope", "rope_half", "learned_rope", "relative", "relative_log"):
        return f"position {config.position!r}"
    return "" if config.attention_radius is None else f"attention_radius {config.attention_radius}"


def check_patch_dropout(config: Config) -> float:
    """`patch_dropout`. Errors: `UsageError` where blocks need the position of every patch on the grid."""
    which = needs_grid(config) or (f"window {config.window}" if config.window else "")
    if config.patch_dropout and which:
        what = f"patch_dropout drops patches, and {which} needs the whole grid"
        raise UsageError(what, 'use position="sincos2d", or patch_dropout 0')
    return config.patch_dropout


def check_merging(config: Config) -> float:
    """`merge`. Errors: `UsageError` where what blocks do would not be the same to merged tokens."""
    relative = "" if config.position in ("rope", "rope_half") else needs_grid(config)
    which = relative or (f"window {config.window}" if config.window else "")
    which = which or ("drop_path_skip" if config.drop_path_skip else "")
    if config.merge and which:
        raise UsageError(
            f"merge joins patches of every image, and {which} does not go with it",
            'positions that do: "learned", "sincos2d", "rope" and the like; or merge 0',
        )
    return check_merge(config.merge)


def check_windows(config: Config) -> tuple[int, tuple[int, ...]]:
    """`window` and `global_blocks`. Errors: `UsageError` where attention has terms of the whole grid."""
    if config.window and (which := needs_grid(config)):
        raise UsageError(
            f"window {config.window} divides the grid that {which} is made for", "use sincos2d, or window 0"
        )
    return config.window, config.global_blocks


def pre_logits(config: Config) -> nn.Module:
    """The hidden layer of the pre-training head: dense, then tanh as in the original (or ReLU, or nothing)."""
    if not config.pre_logits:
        return nn.Identity()
    dense = nn.Linear(config.width, config.pre_logits, bias=config.pre_logits_act != "none")
    return nn.Sequential(dense, {"tanh": nn.Tanh, "relu": nn.ReLU, "none": nn.Identity}[config.pre_logits_act]())
