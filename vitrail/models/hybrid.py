"""Hybrid ViT: a ResNet computes the patch tokens (Dosovitskiy et al. 2020, section 3.1, arxiv.org/abs/2010.11929), in
the sizes of "How to train your ViT?" (Steiner et al. 2021, arxiv.org/abs/2106.10270).

Convolutions work on the fine grid, where attention would be expensive, and the transformer on their features of stride
16 or 32. The ResNet is a post-activation one with standardised weights, GroupNorm and TensorFlow's padding; after it
everything is `vit`. "R50+B/16" is "r50_base", and so on; the stride is 16 for "r50_base", 32 for the others.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.errors import UsageError
from vitrail.layers.init import Init, initialise
from vitrail.layers.merge import Merge
from vitrail.layers.mlp import Gelu
from vitrail.layers.resample import Resampling
from vitrail.models import vit
from vitrail.shapes import Float
from vitrail.types import is_free
from vitrail.validation import Count, Fraction, NonNegative, Positive, PositiveFloat

Standard = Literal["jax", "timm"]
GROUPS = 32  # of every GroupNorm


@dataclass(frozen=True)
class Config:
    stages: tuple[Positive, ...] = (3, 4, 9)  # bottlenecks of each, at strides 4, 8, 16; (): root alone
    stem_width: Positive = 64  # of the root; the output of stage i is 4 x 2^i times as wide
    standardise: Standard = "jax"  # weights: (w - mean) / (std + 1e-5), or as timm does (w - mean) / sqrt(var + 1e-8)
    stem_eps: PositiveFloat = 1e-6  # of the GroupNorms; timm has 1e-5
    zero_last: bool = True  # the last norm of every bottleneck starts at zero: the block starts as the identity
    patch: Positive = 1  # a token is patch x patch cells of the ResNet's map
    width: Positive = 768
    depth: Count = 12
    heads: Positive = 12
    mlp_ratio: PositiveFloat = 4.0
    size: tuple[Positive, Positive] = (224, 224)  # (height, width) of the position tables; any other size works too
    channels: Positive = 3
    tokens: Count = 1
    registers: Count = 0
    position: vit.Position = "learned"
    position_tokens: bool = True
    position_resampling: Resampling = "bicubic"
    pre_logits: Count = 0
    gelu: Gelu = "erf"
    eps: PositiveFloat = 1e-6
    layer_scale: float | None = None
    dropout: Fraction = 0.0
    attention_dropout: Fraction = 0.0
    drop_path: NonNegative = 0.0  # of the transformer's blocks
    merge: Merge = 0  # tokens that each block of the transformer merges, or below 1 the share that all do; 0: none
    map_depths: tuple[Positive, ...] = ()  # numbers of blocks after which there is a map, besides the last
    init: Init = "truncated"


VARIANTS = {
    "r_tiny":        Config(stages=(),           patch=8, width=192,  depth=12, heads=3),
    "r_tiny_384":    Config(stages=(),           patch=8, width=192,  depth=12, heads=3,  size=(384, 384)),
    "r26_small":     Config(stages=(2, 2, 2, 2), patch=1, width=384,  depth=12, heads=6),
    "r26_small_384": Config(stages=(2, 2, 2, 2), patch=1, width=384,  depth=12, heads=6,  size=(384, 384)),
    "r26_base":      Config(stages=(2, 2, 2, 2), patch=1, width=768,  depth=12, heads=12),
    "r50_base":      Config(stages=(3, 4, 9),    patch=1, width=768,  depth=12, heads=12),
    "r50_base_384":  Config(stages=(3, 4, 9),    patch=1, width=768,  depth=12, heads=12, size=(384, 384)),
    "r50_large":     Config(stages=(3, 4, 6, 3), patch=1, width=1024, depth=24, heads=16),
    "r50_large_384": Config(stages=(3, 4, 6, 3), patch=1, width=1024, depth=24, heads=16, size=(384, 384)),
}  # fmt: skip


class StandardConv(nn.Conv2d):
    """A convolution without bias with weight standardisation (Qiao et al. 2019), padded so that a stride s gives ceil(n
    / s) cells of n, the odd one right and below.

    It is an `nn.Conv2d` because weight decay, initialisation and cost counting depend on the module's class.
    """

    def __init__(self, inside: int, out: int, kernel: int, stride: int = 1, standard: Standard = "jax"):
        super().__init__(inside, out, kernel, stride, bias=False)
        self.standard = standard

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(same(x, self.kernel_size[0], self.stride[0]), self.standardised(), None, self.stride)

    def standardised(self) -> Tensor:
        var, mean = torch.var_mean(self.weight, (1, 2, 3), correction=0, keepdim=True)
        return (self.weight - mean) / (var.sqrt() + 1e-5 if self.standard == "jax" else (var + 1e-8).sqrt())


class Shortcut(nn.Module):
    """A 1x1 convolution and its norm, where grid or width change."""

    def __init__(self, config: Config, inside: int, out: int, stride: int):
        super().__init__()
        self.conv = StandardConv(inside, out, 1, stride, config.standardise)
        self.norm = nn.GroupNorm(GROUPS, out, config.stem_eps)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        return self.norm(self.conv(x))


class Bottleneck(nn.Module):
    """1x1 down, 3x3 with the stride, 1x1 up to four times `width`, and a shortcut."""

    def __init__(self, config: Config, inside: int, width: int, stride: int):
        super().__init__()
        out, standard = 4 * width, config.standardise
        self.downsample = nn.Identity() if stride == 1 and inside == out else Shortcut(config, inside, out, stride)
        self.conv1 = StandardConv(inside, width, 1, 1, standard)
        self.conv2 = StandardConv(width, width, 3, stride, standard)
        self.conv3 = StandardConv(width, out, 1, 1, standard)
        self.norm1, self.norm2, self.norm3 = (nn.GroupNorm(GROUPS, n, config.stem_eps) for n in (width, width, out))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        y = self.norm1(self.conv1(x)).relu_()
        y = self.norm2(self.conv2(y)).relu_()
        y = self.norm3(self.conv3(y))
        return y.add_(self.downsample(x)).relu_()


class Root(nn.Module):
    """A 7x7 convolution of stride 2 and a 3x3 maximum of stride 2."""

    def __init__(self, config: Config):
        super().__init__()
        self.conv = StandardConv(config.channels, config.stem_width, 7, 2, config.standardise)
        self.norm = nn.GroupNorm(GROUPS, config.stem_width, config.stem_eps)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        return halve(self.norm(self.conv(images)).relu_())


class Stage(nn.Module):
    """Bottlenecks, the first with the stride."""

    def __init__(self, config: Config, inside: int, i: int):
        super().__init__()
        width = config.stem_width << i
        first = Bottleneck(config, inside, width, 2 if i else 1)
        self.blocks = nn.Sequential(
            first, *(Bottleneck(config, 4 * width, width, 1) for _ in range(config.stages[i] - 1))
        )

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        return self.blocks(x)


class ResNet(nn.Module):
    """Images [B C H W] -> one map [B out h w] of stride 4 x 2^(stages - 1), or 4 where there are none."""

    def __init__(self, config: Config):
        super().__init__()
        self.stem, self.out = Root(config), config.stem_width
        stages = []
        for i in range(len(config.stages)):
            stages.append(Stage(config, self.out, i))
            self.out = 4 * config.stem_width << i
        self.stages = nn.Sequential(*stages)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        return self.stages(self.stem(images))


class Stem(nn.Module):
    """Images [B C H W] -> tokens [B h w D]: a ResNet, and a linear layer over `patch` x `patch` of its cells. Any image
    size; zeros are padded right and below to whole tokens."""

    def __init__(self, config: Config):
        super().__init__()
        self.backbone = ResNet(config)
        self.proj = nn.Conv2d(self.backbone.out, config.width, config.patch, config.patch)
        initialise(self, config.init)
        for block in self.modules():
            if config.zero_last and isinstance(block, Bottleneck):
                nn.init.zeros_(block.norm3.weight)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B h w D"]:
        x, patch = self.backbone(images), self.proj.stride
        below, right = -x.shape[-2] % patch[0], -x.shape[-1] % patch[1]
        if below or right:
            x = F.pad(x, (0, right, 0, below))
        return self.proj(x).permute(0, 2, 3, 1)  # [B D h w] -> [B h w D]


class Hybrid(vit.ViT):
    """Images [B C H W] -> `Features`: a ViT whose stem is a ResNet; `blocks` are the transformer's."""

    def __init__(self, config: Config):
        super().__init__(transformer_config(config))
        self.config = config
        self.patch_embed = Stem(config)
        self.any_size_from = 0  # the stem pads by what the size leaves


def build(config: Config) -> Hybrid:
    """A hybrid, freshly initialised."""
    if config.stem_width % GROUPS:
        low = max(GROUPS, config.stem_width // GROUPS * GROUPS)
        raise UsageError(
            f"stem_width {config.stem_width} is not divisible by {GROUPS} groups", f"use {low} or {low + GROUPS}"
        )
    return Hybrid(config)


def transformer_config(config: Config) -> vit.Config:
    """The config of the ViT after the stem: fields of the same name are the same, and `patch` is the stride of a
    token."""
    return replace(vit.shared_config(config), patch=config.patch * (4 << max(0, len(config.stages) - 1)))


def halve(x: Tensor) -> Tensor:
    """The maxima of 3x3 cells with a stride of 2, padded as `same`; of a map [B C H W] that is nowhere below zero,
    whose maxima zeros do not change. Where the size is known the map is not copied for it."""
    if is_free(*x.shape[-2:]):
        return F.max_pool2d(same(x, 3, 2), 3, 2)
    return F.max_pool2d(x, 3, 2, padding=tuple(n % 2 for n in x.shape[-2:]), ceil_mode=True)


def same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """A map [B C H W] padded with zeros as "SAME" in TensorFlow, the odd one right and below."""
    down, across = (max(0, (-(-n // stride) - 1) * stride + kernel - n) for n in x.shape[-2:])
    if not down and not across:
        return x
    return F.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2))
