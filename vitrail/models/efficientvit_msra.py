"""EfficientViT: memory efficient vision transformer with cascaded group attention (Liu et al. 2023,
arxiv.org/abs/2305.07027).

One attention between two feed-forward layers on each side, BatchNorm throughout, and heads in cascade: the input of
each is its share of the channels plus the output of the head before it. This is Microsoft's; the EfficientViT of MIT is
`efficientvit`. Names of parameters follow timm.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.contracts import Backbone
from vitrail.errors import UsageError
from vitrail.layers.attention import Attention, AttentionInputs
from vitrail.layers.drop import DropPath, drop_rates
from vitrail.layers.norm import ConvNorm
from vitrail.layers.relative import Displacements, all_displacements, distances
from vitrail.layers.token_layout import AttentionLayout, self_attention_layout
from vitrail.layers.windows import Windows
from vitrail.shapes import Float
from vitrail.types import Features, TokenLayout
from vitrail.validation import Fraction, Positive, PositiveFloat

Three = tuple[Positive, Positive, Positive]


@dataclass(frozen=True)
class Config:
    widths: Three = (128, 256, 384)  # of the three stages
    depths: Three = (1, 2, 3)
    heads: Three = (4, 4, 4)
    kernels: tuple[Positive, ...] = (7, 5, 3, 3)  # of the convolution over queries, one for each head of a stage
    key_width: Positive = 16  # channels of a query or key
    window: Positive = 7  # cells along a side of the attention window; less where the map for `size` is smaller
    mlp_ratio: PositiveFloat = 2.0
    size: tuple[Positive, Positive] = (224, 224)  # (height, width) that the windows fit; any other works too
    channels: Positive = 3
    summaries: Positive = 1  # 2: class and distillation, each with its norm
    eps: PositiveFloat = 1e-5
    dropout: Fraction = 0.0  # before the classifier
    drop_path: Fraction = 0.0


VARIANTS = {
    "m0": Config((64,  128, 192), (1, 2, 3), (4, 4, 4), (5, 5, 5, 5)),
    "m1": Config((128, 144, 192), (1, 2, 3), (2, 3, 3), (7, 5, 3, 3)),
    "m2": Config((128, 192, 224), (1, 2, 3), (4, 3, 2), (7, 5, 3, 3)),
    "m3": Config((128, 240, 320), (1, 2, 3), (4, 3, 4), (5, 5, 5, 5)),
    "m4": Config((128, 256, 384), (1, 2, 3), (4, 4, 4), (7, 5, 3, 3)),
    "m5": Config((192, 288, 384), (1, 3, 4), (3, 3, 4), (7, 5, 3, 3)),
}  # fmt: skip

STRIDES = (16, 32, 64)


class Residual(nn.Module):
    def __init__(self, main: nn.Module, drop_path: float):
        super().__init__()
        self.m = main
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.drop_path(self.m(x)) if self.training else self.m(x)  # a call less: there are 38 of them
        return branch.add_(x)  # which nothing else holds; new memory takes longer than the sum


class Head(Attention):
    """One head of the cascade, on windows [B D h w], with its own `bias` [N N] and a convolution over the queries."""

    def __init__(self, config: Config, width: int, kernel: int):
        super().__init__(width, heads=1)
        self.add_module("proj", nn.Identity())  # one projection joins all heads, after the last
        self.widths = (config.key_width, config.key_width, width)
        self.qkv = ConvNorm(config.eps, width, sum(self.widths))
        self.dw = ConvNorm(config.eps, config.key_width, config.key_width, kernel, groups=config.key_width)

    def project(self, x: Tensor, bias: Tensor, layout: TokenLayout) -> AttentionInputs:
        q, k, v = self.qkv(x).split(self.widths, dim=1)  # once: each part of its own would get a gradient of the whole
        return AttentionInputs(tokens(self.dw(q)), tokens(k), tokens(v), bias)

    def locate(self, x: Tensor, bias: Tensor, layout: TokenLayout) -> AttentionLayout:
        return self_attention_layout(layout)


def tokens(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B h N C"]:
    """A map as the tokens of one head."""
    return x.flatten(2).mT.unsqueeze(1)


class Cascade(Displacements):
    """Windows [B D h w] -> the same shape (the paper's section 3.2). Every head is an `Attention` of its own, since
    each needs the output of the one before; a learned bias encodes the distance of two cells, down and across."""

    index: Tensor

    def __init__(self, config: Config, width: int, heads: int, window: int):
        super().__init__()
        self.window = window
        self.cascade = nn.ModuleList(Head(config, width // heads, kernel) for kernel in config.kernels[:heads])
        self.proj = nn.Sequential(nn.ReLU(inplace=True), ConvNorm(config.eps, width, width, gain=0.0))
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))
        self.register_buffer("index", distances(window), persistent=False)

    def forward(self, x: Tensor, layout: TokenLayout) -> Tensor:
        biases = self.attention_biases.index_select(1, self.index.flatten()).unflatten(1, self.index.shape)
        outputs: list[Tensor] = []
        for head, share, bias in zip(self.cascade, x.chunk(len(self.cascade), dim=1), biases, strict=True):
            inputs = share + outputs[-1] if outputs else share
            outputs.append(head(inputs, bias, layout).mT.reshape(share.shape))  # [B N d] -> [B d h w]
        return self.proj(torch.cat(outputs, dim=1))

    def by_displacement(self) -> Tensor:
        return all_displacements(self.attention_biases, self.window)


class WindowMixer(nn.Module):
    """Attention inside square windows of a map [B D h w]. The map is padded with zeros below and to the right; as in
    the original, the padding is attended to and not masked."""

    def __init__(self, attn: Cascade, stride: int):
        super().__init__()
        self.attn, self.stride = attn, stride
        self.windows = Windows((attn.window, attn.window))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        h, w, side = x.shape[2], x.shape[3], self.attn.window
        layout = TokenLayout((h, w), (self.stride, self.stride), groups=self.windows)
        if h == w == side:
            return self.attn(x, layout)
        below, right = -h % side, -w % side
        if below or right:
            x = F.pad(x, (0, right, 0, below))
        x = x.unflatten(3, (-1, side)).unflatten(2, (-1, side))  # [B D rows side columns side]
        rows, columns = x.shape[2], x.shape[4]
        x = self.attn(x.permute(0, 2, 4, 1, 3, 5).flatten(0, 2), layout)  # [B*rows*columns D side side]
        x = x.unflatten(0, (-1, rows, columns)).permute(0, 3, 1, 4, 2, 5)
        x = x.flatten(4, 5).flatten(2, 3)
        return x[:, :, :h, :w] if below or right else x


class Mlp(nn.Module):
    def __init__(self, config: Config, width: int):
        super().__init__()
        hidden = int(width * config.mlp_ratio)
        self.pw1, self.act = ConvNorm(config.eps, width, hidden), nn.ReLU(inplace=True)
        self.pw2 = ConvNorm(config.eps, hidden, width, gain=0.0)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        return self.pw2(self.act(self.pw1(x)))


class SqueezeExcite(nn.Module):
    """Every channel times a gate between 0 and 1, computed from the mean of all channels (Hu et al. 2017)."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(width, hidden, 1), nn.Conv2d(hidden, width, 1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        return x * self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class Merge(nn.Module):
    """To half the grid and the next stage's width, through four times the width."""

    def __init__(self, config: Config, inside: int, out: int):
        super().__init__()
        wide = 4 * inside
        self.conv1, self.conv2 = ConvNorm(config.eps, inside, wide), ConvNorm(config.eps, wide, wide, 3, 2, wide)
        self.se, self.conv3 = SqueezeExcite(wide, inside), ConvNorm(config.eps, wide, out)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        return self.conv3(self.se(self.conv2(self.conv1(x).relu_()).relu_()))


class Block(nn.Module):
    """Depthwise convolution, MLP, attention, depthwise convolution, MLP; each is residual."""

    def __init__(self, config: Config, width: int, mixer: WindowMixer, drop_path: float):
        super().__init__()
        self.dw0, self.ffn0 = pair(config, width, 0.0, drop_path).children()
        self.mixer = Residual(mixer, drop_path)
        self.dw1, self.ffn1 = pair(config, width, 0.0, drop_path).children()

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        return self.ffn1(self.dw1(self.mixer(self.ffn0(self.dw0(x)))))


class Stage(nn.Module):
    def __init__(self, downsample: nn.Module, blocks: Sequence[Block]):
        super().__init__()
        self.downsample, self.blocks = downsample, nn.Sequential(*blocks)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        return self.blocks(self.downsample(x))


class EfficientViT(Backbone):
    """Images [B C H W] -> `Features`: the mean of the last map, normalised (once for each summary), and maps at strides
    16, 32, 64."""

    def __init__(self, config: Config):
        super().__init__()
        check(config)
        self.config = config
        widths = config.widths
        self.patch_embed = stem(config)
        rates = iter(drop_rates(config.drop_path, sum(config.depths), "linear"))
        self.stages = nn.ModuleList()
        for i, (width, depth, heads) in enumerate(zip(widths, config.depths, config.heads, strict=True)):
            side = min(config.window, *(-(-pixels // STRIDES[i]) for pixels in config.size))
            mixers = [WindowMixer(Cascade(config, width, heads, side), STRIDES[i]) for _ in range(depth)]
            blocks = [Block(config, width, mixer, next(rates)) for mixer in mixers]
            self.stages.append(Stage(downsample(config, widths[i - 1], width) if i else nn.Identity(), blocks))
        self.norms = nn.ModuleList(nn.BatchNorm1d(widths[-1], config.eps) for _ in range(config.summaries))
        self.dropout = nn.Dropout(config.dropout)
        self.summary_widths = (widths[-1],) * config.summaries
        self.map_widths, self.strides = widths, STRIDES

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The downsampling between stages counts as a block, as in the original."""
        stages = [(s.get_submodule("downsample"), *s.get_submodule("blocks").children()) for s in self.stages]
        return [block for stage in stages for block in stage][1:]  # the first stage has no downsampling

    def forward(self, images: Float[Tensor, "B C H W"]) -> Features:
        x = self.patch_embed(images)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        mean = x.mean((2, 3))
        return Features(tuple(self.dropout(norm(mean)) for norm in self.norms), tuple(maps))


def build(config: Config) -> EfficientViT:
    """An EfficientViT of Microsoft, freshly initialised: torch's defaults; position biases and the last norms of blocks
    zero."""
    return EfficientViT(config)


def stem(config: Config) -> nn.Sequential:
    """Four 3x3 convolutions of stride 2, to a sixteenth of the resolution."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    inside = config.channels
    for i in (1, 2, 3, 4):
        out = config.widths[0] >> (4 - i)
        layers[f"conv{i}"] = ConvNorm(config.eps, inside, out, 3, 2)
        layers[f"relu{i}"] = nn.ReLU(inplace=True)
        inside = out
    layers.popitem()  # no activation after the last convolution
    return nn.Sequential(layers)


def pair(config: Config, width: int, gain: float, drop_path: float) -> nn.Sequential:
    """A depthwise convolution and a feed-forward layer, both residual."""
    depthwise = ConvNorm(config.eps, width, width, 3, groups=width, gain=gain)
    return nn.Sequential(Residual(depthwise, drop_path), Residual(Mlp(config, width), drop_path))


def downsample(config: Config, inside: int, out: int) -> nn.Sequential:
    return nn.Sequential(OrderedDict(
        res1=pair(config, inside, 1.0, 0.0), patchmerge=Merge(config, inside, out), res2=pair(config, out, 1.0, 0.0),
    ))  # fmt: skip


def check(config: Config) -> None:
    """Errors: `UsageError` where widths, heads and kernels do not match."""
    for width, heads in zip(config.widths, config.heads, strict=True):
        if width % heads:
            near = sorted({max(heads, width // heads * heads), (width // heads + 1) * heads})
            raise UsageError(f"width {width} is not divisible by {heads} heads", f"nearest widths that work: {near}")
        if heads > len(config.kernels):
            raise UsageError(f"{heads} heads need {heads} kernels, not {len(config.kernels)}", "add kernels")
    if config.widths[0] < 8:
        raise UsageError(f"the first width is {config.widths[0]}", "use at least 8: the stem begins with an eighth")
    for kernel in config.kernels:
        if kernel % 2 == 0:
            raise UsageError(f"kernel size {kernel} is even", f"nearest that work: {kernel - 1} and {kernel + 1}")
