"""EfficientViT: multi-scale linear attention for high-resolution dense prediction (Cai et al. 2022,
arxiv.org/abs/2205.14756), of MIT.

Inverted bottlenecks everywhere, and in the coarse stages linear attention, whose cost is linear in the number of cells:
ReLU replaces softmax, so that keys and values are summed before they meet the queries. Not to be confused with the
EfficientViT of Microsoft, `efficientvit_msra`. Names of parameters follow timm.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.contracts import Backbone
from vitrail.errors import UsageError
from vitrail.layers.drop import DropPath
from vitrail.shapes import Float
from vitrail.types import Features
from vitrail.validation import Fraction, Positive, PositiveFloat

Kind = Literal["mb", "fused", "attention"]
Five = tuple[Positive, Positive, Positive, Positive, Positive]


@dataclass(frozen=True)
class Config:
    widths: Five = (16, 32, 64, 128, 256)  # of the stem and of the four stages
    depths: Five = (1, 2, 3, 3, 4)
    plan: Literal["base", "large"] = "base"  # the blocks of each stage, see PLANS; hard-swish or GELU (tanh)
    head_width: Positive = 16  # channels of one attention head
    scales: tuple[Positive, ...] = (5,)  # kernel sizes that aggregate queries, keys and values over neighbours
    pre_logits: tuple[Positive, Positive] | None = (1536, 1600)  # hidden layers before and after the mean
    size: tuple[Positive, Positive] = (224, 224)  # training size; any other works too
    channels: Positive = 3
    eps: PositiveFloat = 1e-15  # in the denominator of linear attention; timm has 1e-5
    norm_eps: PositiveFloat = 1e-5
    zero_last: bool = True  # residual branches start at zero (except those of full convolutions)
    dropout: Fraction = 0.0  # before the classifier
    drop_path: Fraction = 0.0


VARIANTS = {
    "b0": Config((8,  16, 32,  64,  128),  (1, 2, 2, 2, 2), head_width=16, pre_logits=(1024, 1280)),
    "b1": Config((16, 32, 64,  128, 256),  (1, 2, 3, 3, 4), head_width=16, pre_logits=(1536, 1600)),
    "b2": Config((24, 48, 96,  192, 384),  (1, 3, 4, 4, 6), head_width=32, pre_logits=(2304, 2560)),
    "b3": Config((32, 64, 128, 256, 512),  (1, 4, 6, 6, 9), head_width=32, pre_logits=(2304, 2560)),
    "l1": Config((32, 64, 128, 256, 512),   (1, 1, 1, 6, 6), "large", 32, pre_logits=(3072, 3200), norm_eps=1e-7),
    "l2": Config((32, 64, 128, 256, 512),   (1, 2, 2, 8, 8), "large", 32, pre_logits=(3072, 3200), norm_eps=1e-7),
    "l3": Config((64, 128, 256, 512, 1024), (1, 2, 2, 8, 8), "large", 32, pre_logits=(6144, 6400), norm_eps=1e-7),
}  # fmt: skip

PLANS: dict[str, Sequence[tuple[Kind, int, int, bool]]] = {  # by stage: block kind, expansion, the first's, all norms
    "base":  [("mb",    4, 4,  True), ("mb",    4, 4,  True), ("attention", 4, 4, False), ("attention", 4, 4, False)],
    "large": [("fused", 4, 16, True), ("fused", 4, 16, True), ("mb", 4, 16, False),       ("attention", 6, 24, False)],
}  # fmt: skip


def conv(inside: int, out: int, kernel: int = 1, stride: int = 1, groups: int = 1, bias: bool = False) -> nn.Conv2d:
    """A convolution that keeps the grid, or halves it."""
    return nn.Conv2d(inside, out, kernel, stride, kernel // 2, groups=groups, bias=bias)


class Conv(nn.Sequential):
    """A convolution, then BatchNorm where it has no bias of its own, then the activation if wanted."""

    def __init__(self, config: Config, conv: nn.Conv2d, act: bool = True):
        super().__init__()
        self.conv = conv
        self.norm = nn.BatchNorm2d(conv.out_channels, config.norm_eps) if conv.bias is None else nn.Identity()
        self.act = activation(config) if act else nn.Identity()


class Inverted(nn.Sequential):
    """MBConv: up, depthwise, down. Without `norms`, biases replace all norms but the last."""

    def __init__(self, config: Config, inside: int, out: int, stride: int, expand: int, norms: bool):
        super().__init__()
        wide = inside * expand
        self.inverted_conv = Conv(config, conv(inside, wide, bias=not norms))
        self.depth_conv = Conv(config, conv(wide, wide, 3, stride, wide, bias=not norms))
        self.point_conv = Conv(config, conv(wide, out), act=False)


class Fused(nn.Sequential):
    """Fused MBConv: one full convolution is "up" and "depthwise"."""

    def __init__(self, config: Config, inside: int, out: int, stride: int, expand: int):
        super().__init__()
        self.spatial_conv = Conv(config, conv(inside, inside * expand, 3, stride))
        self.point_conv = Conv(config, conv(inside * expand, out), act=False)


class Separable(nn.Sequential):
    """The stem block of the base plan."""

    def __init__(self, config: Config, width: int):
        super().__init__()
        self.depth_conv = Conv(config, conv(width, width, 3, groups=width))
        self.point_conv = Conv(config, conv(width, width), act=False)


def full_convs(config: Config, width: int) -> nn.Sequential:
    """The stem block of the large plan."""
    conv1, conv2 = Conv(config, conv(width, width, 3)), Conv(config, conv(width, width, 3), act=False)
    return nn.Sequential(OrderedDict(conv1=conv1, conv2=conv2))


class Residual(nn.Module):
    def __init__(self, main: nn.Module):
        super().__init__()
        self.main = main
        self.drop_path = DropPath(0.0)  # `set_rates` sets it when all branches are counted

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.main(x))


class LinearAttention(nn.Module):
    """relu(q) (relu(k)ᵀ v) / (relu(q) relu(k)ᵀ 1 + eps), then a projection (section 3.1), on maps [B D h w].

    Half of the heads use the projected queries, keys and values, the other half the same aggregated over neighbours by
    a depthwise convolution (one such group more for each of `scales`). The attention weights are never computed, which
    makes it linear; so this is no `Attention` and has no `weights`. Sums over the whole map overflow half precision:
    they are float32 at least, also under autocast.
    """

    def __init__(self, config: Config, width: int):
        super().__init__()
        self.eps, self.head_width = config.eps, config.head_width
        inside, groups = 3 * width, 3 * (width // config.head_width)
        self.qkv = nn.Conv2d(width, inside, 1, bias=False)
        self.aggreg = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(inside, inside, kernel, padding=kernel // 2, groups=inside, bias=False),
                nn.Conv2d(inside, inside, 1, groups=groups, bias=False),
            )
            for kernel in config.scales
        )
        self.proj = Conv(config, conv(width * (1 + len(config.scales)), width), act=False)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        qkv = self.qkv(x)  # [B 3D h w], in it the q, k and v of every head side by side
        qkv = torch.cat([qkv, *(gather(qkv) for gather in self.aggreg)], dim=1)
        heads = qkv.flatten(2).unflatten(1, (-1, 3 * self.head_width))  # [B heads 3d N]
        device = x.device.type
        if device != "meta" and torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                y = self.attend(heads)
        else:
            y = self.attend(heads)
        return self.proj(y.flatten(1, 2).unflatten(2, qkv.shape[2:]))

    def attend(self, heads: Float[Tensor, "B h e N"]) -> Float[Tensor, "B h d N"]:
        q, k, v = heads.to(torch.promote_types(heads.dtype, torch.float32)).chunk(3, dim=2)  # [B heads d N] each
        q, k, v = q.relu(), k.relu(), F.pad(v, (0, 0, 0, 1), value=1.0)  # the row of ones adds up the weights
        y = (v @ k.mT) @ q  # [B heads d+1 N]
        return (y[:, :, :-1] / (y[:, :, -1:] + self.eps)).to(heads.dtype)


class Block(nn.Module):
    """Linear attention for global context, an inverted bottleneck for local features."""

    def __init__(self, config: Config, width: int, expand: int):
        super().__init__()
        self.context_module = Residual(LinearAttention(config, width))
        self.local_module = Residual(Inverted(config, width, width, 1, expand, norms=False))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        return self.local_module(self.context_module(x))


class PreLogits(nn.Module):
    """The hidden part of the original's classifier: map [B C h w] -> vector [B D]."""

    def __init__(self, config: Config, inside: int, hidden: tuple[int, int]):
        super().__init__()
        self.in_conv = Conv(config, conv(inside, hidden[0]))
        self.fc = nn.Linear(hidden[0], hidden[1], bias=False)
        self.norm = nn.LayerNorm(hidden[1], config.norm_eps)
        self.act = activation(config)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D"]:
        return self.act(self.norm(self.fc(self.in_conv(x).mean((2, 3)))))


class EfficientViT(Backbone):
    """Images [B C H W] -> `Features`: one vector, the input of the original's last linear layer, and maps at strides 4,
    8, 16, 32.

    With `pre_logits` None the vector is the mean of the last map.
    """

    def __init__(self, config: Config):
        super().__init__()
        check(config)
        self.config = config
        self.stem = stem(config)
        pairs = pairwise(config.widths)
        plan = zip(pairs, config.depths[1:], PLANS[config.plan], strict=True)
        self.stages = nn.ModuleList(
            nn.Sequential(OrderedDict(blocks=stage(config, *pair, depth, blocks))) for pair, depth, blocks in plan
        )
        last = config.widths[-1]
        self.pre_logits = PreLogits(config, last, config.pre_logits) if config.pre_logits else None
        self.dropout = nn.Dropout(config.dropout)
        self.summary_widths = (config.pre_logits[1] if config.pre_logits else last,)
        self.map_widths, self.strides, self.any_size_from = config.widths[1:], (4, 8, 16, 32), 64
        set_rates(self, config)
        initialise(self, config.zero_last)

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return [block for stage in self.stages for block in stage.get_submodule("blocks").children()]

    def forward(self, images: Float[Tensor, "B C H W"]) -> Features:
        x = self.stem(images)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        summary = x.mean((2, 3)) if self.pre_logits is None else self.pre_logits(x)
        return Features((self.dropout(summary),), tuple(maps))


def build(config: Config) -> EfficientViT:
    """An EfficientViT, freshly initialised."""
    return EfficientViT(config)


def stem(config: Config) -> nn.Sequential:
    """To half the resolution, then residual blocks: depthwise separable in the base plan, two full convolutions in the
    large."""
    width = config.widths[0]
    layers: OrderedDict[str, nn.Module] = OrderedDict(in_conv=Conv(config, conv(config.channels, width, 3, 2)))
    for i in range(config.depths[0]):
        layers[f"res{i}"] = Residual(Separable(config, width) if config.plan == "base" else full_convs(config, width))
    return nn.Sequential(layers)


def stage(config: Config, inside: int, width: int, depth: int, plan: tuple[Kind, int, int, bool]) -> nn.Sequential:
    """A block that halves the grid and has no shortcut, then `depth` blocks that keep it; in the base plan, without
    attention, the first counts as one of them."""
    kind, expand, first, norms = plan
    down = (
        Fused(config, inside, width, 2, first) if kind == "fused" else Inverted(config, inside, width, 2, first, norms)
    )
    layers: list[nn.Module] = [nn.Sequential(OrderedDict(main=down))]
    for _ in range(depth - 1 if config.plan == "base" and kind == "mb" else depth):
        if kind == "attention":
            layers.append(Block(config, width, expand))
        elif kind == "fused":
            layers.append(Residual(Fused(config, width, width, 1, expand)))
        else:
            layers.append(Residual(Inverted(config, width, width, 1, expand, norms)))
    return nn.Sequential(*layers)


def activation(config: Config) -> nn.Module:
    return nn.Hardswish(inplace=True) if config.plan == "base" else nn.GELU(approximate="tanh")


def check(config: Config) -> None:
    """Errors: `UsageError` where a width is not divisible by the head width, or a kernel size is even."""
    d = config.head_width
    for width, (kind, *_) in zip(config.widths[1:], PLANS[config.plan], strict=True):
        if kind == "attention" and width % d:
            near = sorted({max(d, width // d * d), (width // d + 1) * d})
            raise UsageError(f"width {width} is not divisible by head_width {d}", f"nearest that work: {near}")
    for kernel in config.scales:
        if kernel % 2 == 0:
            raise UsageError(f"kernel size {kernel} is even", f"nearest that work: {kernel - 1} and {kernel + 1}")


def set_rates(model: EfficientViT, config: Config) -> None:
    """Stochastic depth as in the original's training: rates rise linearly over the residual branches; those of the
    stem, and in the large plan those of the first stage, are never dropped."""
    undropped = config.depths[0] + (config.depths[1] if config.plan == "large" else 0)
    branches = [m for m in model.modules() if isinstance(m, Residual)][undropped:]
    for i, branch in enumerate(branches, 1):
        branch.drop_path.drop_prob = config.drop_path * i / len(branches)


def initialise(model: EfficientViT, zero_last: bool) -> None:
    """As in the original's training: weights trunc-normal 0.02, biases zero, and with `zero_last` the last norm of
    every residual branch zero, except in branches of full convolutions."""
    for m in model.modules():
        if isinstance(m, nn.Conv2d | nn.Linear):
            nn.init.trunc_normal_(m.weight, std=0.02)
            if m.bias is not None:
                nn.init.zeros_(m.bias)
    for m in model.modules() if zero_last else ():
        if isinstance(m, Residual) and isinstance(m.main, LinearAttention):
            nn.init.zeros_(m.main.proj.get_parameter("norm.weight"))
        elif isinstance(m, Residual) and isinstance(m.main, Inverted | Separable):
            nn.init.zeros_(m.main.point_conv.get_parameter("norm.weight"))
