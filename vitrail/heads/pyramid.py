"""The maps of any backbone as a feature pyramid: each normed, each of half the resolution of the one before.

A hierarchical backbone has such maps. A backbone whose maps are all of the resolution of its patches (a plain ViT), or
nearly (CrossViT's two branches), gets four levels at 4, 2, 1 and 1/2 of it as in BEiT (Bao et al. 2021) and MAE (He et
al. 2021), appendix of each: two deconvolutions, one, none, max pooling. The alternative, bilinear and then a 3x3
convolution ("MultiLevelNeck"), costs seven times as many multiply-adds on the finest level, and deconvolutions of 2x2
with stride 2 fit every grid exactly, so that any size works.
"""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from vitrail.errors import UsageError
from vitrail.heads.blocks import ChannelNorm, NormKind, map_norm
from vitrail.shapes import Float

LEVELS = 4
STEPS = (2, 1, 0, -1)  # of their sizes, as powers of two of that of a plain ViT's map


class Pyramid(nn.Module):
    """Maps [B C h w] -> the levels of a pyramid, fine to coarse, with their `widths`, `strides` and the indices of
    their maps, `sources`.

    Every map goes through a LayerNorm first: the maps between blocks of transformers are not normed (mmseg's Swin has
    these norms too). With fewer maps than four, several levels use the same map, the finer levels those of earlier
    depth.
    """

    def __init__(self, widths: Sequence[int], strides: Sequence[int], norm: NormKind):
        super().__init__()
        self.sources, steps = tuple(range(len(widths))), (0,) * len(widths)
        if not is_pyramid(strides):
            self.sources = tuple(round(i * (len(widths) - 1) / (LEVELS - 1)) for i in range(LEVELS))
            steps = STEPS
        self.widths = tuple(widths[source] for source in self.sources)
        self.strides = tuple(strides[source] * 2.0**-step for source, step in zip(self.sources, steps, strict=True))
        self.norms = nn.ModuleList(ChannelNorm(width) for width in self.widths)
        self.scales = nn.ModuleList(scale(step, width, norm) for step, width in zip(steps, self.widths, strict=True))

    def forward(self, maps: Sequence[Float[Tensor, "B _ _ _"]]) -> list[Float[Tensor, "B _ _ _"]]:
        levels = (maps[source] for source in self.sources)
        return [scale(norm(x)) for x, norm, scale in zip(levels, self.norms, self.scales, strict=True)]


class SimplePyramid(nn.Module):
    """The last map of a plain ViT as a pyramid, all of its four levels or some: ViTDet (Li et al. 2022,
    arxiv.org/abs/2203.16527, section 3). Deconvolutions that halve the channels, with a norm and GELU between, or
    pooling; then a 1x1 and a 3x3 convolution to `width`, each with a LayerNorm. Every level is made of the one map, so
    that the ViT needs none of other depths. Errors: `UsageError` for a backbone that has a pyramid."""

    def __init__(
        self, widths: Sequence[int], strides: Sequence[int], width: int, levels: Sequence[int] = range(LEVELS)
    ):
        super().__init__()
        every, inside, steps = simple_strides(strides), widths[-1], [STEPS[level] for level in levels]
        self.sources = (len(widths) - 1,) * len(levels)
        self.widths, self.strides = (width,) * len(levels), tuple(every[level] for level in levels)
        self.scales = nn.ModuleList(narrowing_scale(step, inside) for step in steps)
        self.convs = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(max(1, inside >> max(0, step)), width, 1, bias=False), ChannelNorm(width),
                nn.Conv2d(width, width, 3, padding=1, bias=False), ChannelNorm(width),
            ) for step in steps
        )  # fmt: skip

    def forward(self, maps: Sequence[Float[Tensor, "B _ _ _"]]) -> list[Float[Tensor, "B _ _ _"]]:
        return [conv(scale(maps[-1])) for scale, conv in zip(self.scales, self.convs, strict=True)]


def simple_strides(strides: Sequence[int]) -> tuple[float, ...]:
    """The strides of the four levels of a `SimplePyramid`. Errors: `UsageError` for a backbone that has a pyramid."""
    if is_pyramid(strides):
        text = " ".join(map(str, strides))
        raise UsageError(f"neck simple makes a pyramid, and the model has one, of strides {text}", "use neck none")
    return tuple(strides[-1] * 2.0**-step for step in STEPS)


class Skips(nn.Module):
    """The last maps of a backbone, at most `most`, each normed and not resized: for a decoder that upsamples them
    itself."""

    def __init__(self, widths: Sequence[int], strides: Sequence[int], most: int):
        super().__init__()
        self.sources = tuple(range(len(widths)))[-most:]
        self.widths, self.strides = tuple(widths[-most:]), tuple(strides[-most:])
        self.norms = nn.ModuleList(ChannelNorm(width) for width in self.widths)

    def forward(self, maps: Sequence[Float[Tensor, "B _ _ _"]]) -> list[Float[Tensor, "B _ _ _"]]:
        return [norm(maps[source]) for source, norm in zip(self.sources, self.norms, strict=True)]


class Last(nn.Module):
    """The last map alone, unchanged."""

    def __init__(self, widths: Sequence[int], strides: Sequence[int]):
        super().__init__()
        self.sources, self.widths, self.strides = (len(widths) - 1,), tuple(widths[-1:]), tuple(strides[-1:])

    def forward(self, maps: Sequence[Float[Tensor, "B _ _ _"]]) -> list[Float[Tensor, "B _ _ _"]]:
        return [maps[-1]]


def is_pyramid(strides: Sequence[int]) -> bool:
    """Whether maps are a pyramid already: three or more, each of half the resolution of the one before."""
    return len(strides) >= 3 and all(coarse == 2 * fine for fine, coarse in pairwise(strides))


def scale(step: int, width: int, norm: NormKind) -> nn.Module:
    """A map 2^step times as large."""
    if step < 0:
        return nn.MaxPool2d(2, ceil_mode=True)
    layers: list[nn.Module] = []
    for i in range(step):
        layers += [map_norm(norm, width), nn.GELU()] if i else []
        layers.append(nn.ConvTranspose2d(width, width, 2, 2))
    return nn.Sequential(*layers)


def narrowing_scale(step: int, width: int) -> nn.Module:
    """A map 2^step times as large, of half the channels for each doubling."""
    layers: list[nn.Module] = [nn.MaxPool2d(2, ceil_mode=True)] if step < 0 else []
    for i in range(step):
        before, after = max(1, width >> i), max(1, width >> (i + 1))
        layers += [ChannelNorm(before), nn.GELU()] if i else []
        layers.append(nn.ConvTranspose2d(before, after, 2, 2))
    return nn.Sequential(*layers)
