"""CrossViT: cross-attention multi-scale Vision Transformer for image classification (Chen et al. 2021,
arxiv.org/abs/2103.14899).

Two ViTs process the same image, one in small patches and one in large. After each stage the branches exchange class
tokens: the class token of one attends to the patches of the other (cross-attention), at a cost that is linear in the
number of patches. Both class tokens are summaries; the prediction is the mean of both heads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.contracts import Backbone
from vitrail.errors import UsageError
from vitrail.layers.attention import Attention, AttentionInputs, split_heads
from vitrail.layers.drop import DropPath, drop_rates
from vitrail.layers.patch import PatchEmbed, grid_of
from vitrail.layers.position import Learned
from vitrail.layers.token_layout import AttentionLayout, cross_attention_layout, side_of
from vitrail.models import vit
from vitrail.shapes import Float
from vitrail.types import Features, TokenLayout, unplaced_tokens
from vitrail.validation import Fraction, Positive, PositiveFloat


@dataclass(frozen=True)
class Config:
    """Pairs are (small-patch branch, large-patch branch)."""

    widths: tuple[Positive, Positive] = (192, 384)
    heads: tuple[Positive, Positive] = (6, 6)
    stages: Positive = 3  # number of times the branches exchange their class tokens
    depths: tuple[Positive, Positive] = (1, 4)  # blocks of each branch in a stage, before the exchange
    mlp_ratios: tuple[PositiveFloat, PositiveFloat] = (4.0, 4.0)
    patches: tuple[Positive, Positive] = (12, 16)
    stem: Literal["patch", "conv"] = "patch"  # "conv": three convolutions, the dagger models of the paper
    zoom: tuple[Positive, Positive] = (14, 15)  # the second branch's input is 14/15 of the image's size: 224 for 240
    size: tuple[Positive, Positive] = (240, 240)  # (height, width) of the position tables; any other size works too
    fit: bool = False  # resize every image to `size` first, as the original does; False: keep its size
    channels: Positive = 3
    eps: PositiveFloat = 1e-6
    qkv_bias: bool = True
    dropout: Fraction = 0.0
    attention_dropout: Fraction = 0.0
    drop_path: Fraction = 0.0


VARIANTS = {
    "tiny":          Config(widths=(96, 192),  heads=(3, 3),   depths=(1, 4)),
    "small":         Config(widths=(192, 384), heads=(6, 6),   depths=(1, 4)),
    "base":          Config(widths=(384, 768), heads=(12, 12), depths=(1, 4)),
    "9":             Config(widths=(128, 256), heads=(4, 4),   depths=(1, 3), mlp_ratios=(3.0, 3.0)),
    "15":            Config(widths=(192, 384), heads=(6, 6),   depths=(1, 5), mlp_ratios=(3.0, 3.0)),
    "18":            Config(widths=(224, 448), heads=(7, 7),   depths=(1, 6), mlp_ratios=(3.0, 3.0)),
    "9_dagger":      Config(widths=(128, 256), heads=(4, 4),   depths=(1, 3), mlp_ratios=(3.0, 3.0), stem="conv"),
    "15_dagger":     Config(widths=(192, 384), heads=(6, 6),   depths=(1, 5), mlp_ratios=(3.0, 3.0), stem="conv"),
    "18_dagger":     Config(widths=(224, 448), heads=(7, 7),   depths=(1, 6), mlp_ratios=(3.0, 3.0), stem="conv"),
    "15_dagger_384": Config(widths=(192, 384), heads=(6, 6),   depths=(1, 5), mlp_ratios=(3.0, 3.0), stem="conv",
                            size=(408, 408), zoom=(16, 17)),
    "18_dagger_384": Config(widths=(224, 448), heads=(7, 7),   depths=(1, 6), mlp_ratios=(3.0, 3.0), stem="conv",
                            size=(408, 408), zoom=(16, 17)),
}  # fmt: skip


class ConvPatches(nn.Module):
    """Images [B C H W] -> patches [B h w D] of 12 or 16 pixels by three convolutions with ReLU between, padded to whole
    patches."""

    def __init__(self, channels: int, width: int, patch: int):
        super().__init__()
        if patch not in STEMS:
            raise UsageError(f"the convolutional stem cuts patches of 12 or 16 pixels, not {patch}", 'use stem="patch"')
        self.patch = patch
        inside, layers = channels, []
        for out, (kernel, stride, pad) in zip((width // 4, width // 2, width), STEMS[patch], strict=True):
            layers += [nn.Conv2d(inside, out, kernel, stride, pad), nn.ReLU()]
            inside = out
        self.proj = nn.Sequential(*layers[:-1])

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B h w D"]:
        below, right = (-n % self.patch for n in images.shape[-2:])
        if below or right:
            images = F.pad(images, (0, right, 0, below))
        return self.proj(images).permute(0, 2, 3, 1)  # [B D h w] -> [B h w D]


STEMS = {12: ((7, 4, 3), (3, 3, 0), (3, 1, 1)), 16: ((7, 4, 3), (3, 2, 1), (3, 2, 1))}  # kernel, stride, padding


class CrossAttention(Attention):
    """The first token attends to all tokens, itself included: [B N D] -> [B 1 D]."""

    def __init__(self, width: int, heads: int, qkv_bias: bool, dropout: float, attention_dropout: float):
        super().__init__(width, heads, dropout, attention_dropout)
        self.wq, self.wk, self.wv = (nn.Linear(width, width, bias=qkv_bias) for _ in range(3))

    def project(self, x: Tensor, layout: TokenLayout) -> AttentionInputs:
        q, k, v = (split_heads(t, self.heads) for t in (self.wq(x[:, :1]), self.wk(x), self.wv(x)))
        return AttentionInputs(q, k, v)

    def locate(self, x: Tensor, layout: TokenLayout) -> AttentionLayout:
        return cross_attention_layout(side_of(unplaced_tokens(1)._replace(summaries=1)), side_of(layout))


class CrossBlock(nn.Module):
    """A class token before the patches of `branch` -> the token plus its attention output, [B 1 D]. There is no MLP."""

    def __init__(self, config: Config, branch: int, drop_path: float):
        super().__init__()
        width, heads = config.widths[branch], config.heads[branch]
        self.norm1 = nn.LayerNorm(width, config.eps)
        self.attn = CrossAttention(width, heads, config.qkv_bias, config.dropout, config.attention_dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, layout: TokenLayout) -> Tensor:
        return x[:, :1] + self.drop_path(self.attn(self.norm1(x), layout))


class MultiScale(nn.Module):
    """The blocks of each branch, then the exchange (section 3.3): each class token attends to the block outputs of the
    other branch's patches, before the other exchange, and the patches do not change."""

    def __init__(self, config: Config, rates: Sequence[float]):
        super().__init__()
        widths = config.widths
        self.blocks = nn.ModuleList(
            nn.ModuleList(vit.build_block(block_config(config, i), rate) for rate in rates[:depth])
            for i, depth in enumerate(config.depths)
        )
        self.projs = nn.ModuleList(build_projection(widths[i], widths[1 - i], config.eps) for i in range(2))
        self.fusion = nn.ModuleList(CrossBlock(config, 1 - i, rates[-1]) for i in range(2))
        self.revert_projs = nn.ModuleList(build_projection(widths[1 - i], widths[i], config.eps) for i in range(2))

    def forward(self, branches: Sequence[Tensor], layouts: Sequence[TokenLayout]) -> list[Tensor]:
        outputs = []
        for x, layout, blocks in zip(branches, layouts, self.blocks, strict=True):
            for block in blocks.children():
                x = block(x, layout)
            outputs.append(x)  # [B 1+hw D]
        out = []
        for i, x in enumerate(outputs):
            token = self.fusion[i](torch.cat([self.projs[i](x[:, :1]), outputs[1 - i][:, 1:]], dim=1), layouts[1 - i])
            out.append(torch.cat([self.revert_projs[i](token), x[:, 1:]], dim=1))
        return out


class CrossViT(Backbone):
    """Images [B C H W] -> `Features`: a class token [B D] and a map [B D h w] of each branch, small patches first.

    The second map's stride is that of its patches on the input image, rounded: 16 pixels at 14/15 are 17.1.
    """

    blocks: nn.ModuleList

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        widths, patches = config.widths, config.patches
        grids = [grid_of(size, (patch, patch)) for size, patch in zip(sizes(config, config.size), patches, strict=True)]
        self.patch_embed = nn.ModuleList(stem(config, i) for i in range(2))
        self.position = nn.ModuleList(Learned(grid, width, tokens=1) for grid, width in zip(grids, widths, strict=True))
        self.tokens = nn.ParameterList(nn.Parameter(torch.empty(1, width)) for width in widths)
        self.dropout = nn.Dropout(config.dropout)
        each = max(config.depths)
        rates = drop_rates(config.drop_path, config.stages * each, "linear")
        self.blocks = nn.ModuleList(MultiScale(config, rates[i * each : (i + 1) * each]) for i in range(config.stages))
        self.norm = nn.ModuleList(nn.LayerNorm(width, config.eps) for width in widths)
        self.summary_widths = self.map_widths = widths
        self.strides = (patches[0], round(patches[1] * config.zoom[1] / config.zoom[0]))
        initialise(self)

    def forward(self, images: Tensor) -> Features:
        branches, layouts = [], []
        shape = (images.shape[-2], images.shape[-1])
        branch_sizes = sizes(self.config, self.config.size if self.config.fit else shape)
        each = zip(branch_sizes, self.config.patches, self.patch_embed, self.position, self.tokens, strict=True)
        for size, patch, embed, position, token in each:
            x = embed(resize(images, size))  # [B h w D]
            stride = (patch * shape[0] / size[0], patch * shape[1] / size[1])
            layouts.append(TokenLayout((x.shape[1], x.shape[2]), stride, leading=1, summaries=1))
            token = (token + position.token_rows).expand(x.shape[0], -1, -1)
            branches.append(self.dropout(torch.cat([token, position(x).flatten(1, 2)], dim=1)))  # [B 1+hw D]
        for block in self.blocks:
            branches = block(branches, layouts)
        branches = [norm(x) for norm, x in zip(self.norm, branches, strict=True)]
        maps = (x[:, 1:].mT.unflatten(2, layout.grid) for x, layout in zip(branches, layouts, strict=True))
        return Features(tuple(x[:, 0] for x in branches), tuple(maps))


def build(config: Config) -> CrossViT:
    """A CrossViT, freshly initialised."""
    return CrossViT(config)


def sizes(config: Config, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """The size (height, width) of each branch's input for an image of `size`."""
    part, whole = config.zoom
    return size, (max(1, size[0] * part // whole), max(1, size[1] * part // whole))


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Bicubic, without antialiasing, as in the original."""
    if tuple(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, size, mode="bicubic", align_corners=False)


def stem(config: Config, branch: int) -> nn.Module:
    width, patch = config.widths[branch], config.patches[branch]
    if config.stem == "conv":
        return ConvPatches(config.channels, width, patch)
    return PatchEmbed(config.channels, width, (patch, patch))


def block_config(config: Config, branch: int) -> vit.Config:
    """The config of a branch's ViT blocks."""
    return vit.Config(
        width=config.widths[branch],
        heads=config.heads[branch],
        mlp_ratio=config.mlp_ratios[branch],
        eps=config.eps,
        qkv_bias=config.qkv_bias,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
    )


def build_projection(inside: int, out: int, eps: float) -> nn.Sequential:
    """The projection of a token to the width of the other branch."""
    return nn.Sequential(nn.LayerNorm(inside, eps), nn.GELU(), nn.Linear(inside, out))


def initialise(model: CrossViT) -> None:
    """Linear weights, positions and class tokens trunc-normal 0.02, biases zero; convolutions torch's defaults."""
    for m in model.modules():
        if isinstance(m, nn.Linear):
            nn.init.trunc_normal_(m.weight, std=0.02)
            if m.bias is not None:
                nn.init.zeros_(m.bias)
    for token in model.tokens:
        nn.init.trunc_normal_(token, std=0.02)
