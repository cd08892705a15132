"""The one-stage detection head: every cell of a pyramid answers for itself, without anchors or queries (FCOS, Tian et
al. 2019, arxiv.org/abs/1904.01355, with the improvements of arxiv.org/abs/2006.09214, as torchvision has it)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.contracts import HeadedModel
from vitrail.errors import UsageError
from vitrail.heads.blocks import map_norm
from vitrail.heads.pyramid import SimplePyramid, simple_strides
from vitrail.shapes import Float, Shaped
from vitrail.types import CellOutput

FINEST = 8  # stride of the finest level of the published one
PRIOR = 0.01  # score of every cell before training, so that the many empty ones do not swamp the loss (Lin et al. 2017)
REACH = 2.0  # distance of the edges before training, in cells: with 0 the ReLU gives half of the cells no gradient


@dataclass(frozen=True)
class FcosConfig:
    """The head on a backbone."""

    width: int
    convs: int  # 3x3 convolutions of each tower
    stride: int  # of the finest map used, together with all coarser ones; 0: that of the published one, if there is one
    neck: Literal["none", "simple"] = "none"  # "simple": `SimplePyramid` in place of the top-down pyramid


class CellDetector(HeadedModel):
    """Images [B C H W] -> `CellOutput`, in training and out of it alike. `sizes` [B 2], the heights and widths of the
    images without padding, are not needed: cells of the padding are left out when boxes are made."""

    takes_sizes = True

    def __init__(self, backbone: Any, classes: int, design: FcosConfig):
        super().__init__(backbone, classes)
        width, self.design = design.width, design
        simple = design.neck == "simple"
        every = simple_strides(backbone.strides) if simple else backbone.strides
        maps = choose_levels(every, design.stride)
        self.strides = tuple(every[i] for i in maps)
        self.neck: TopDown | SimplePyramid
        if simple:
            self.neck = SimplePyramid(backbone.map_widths, backbone.strides, width, maps)
        else:
            self.neck = TopDown(backbone.map_widths, maps, width)
        self.sources = self.neck.sources
        self.cls_tower, self.reg_tower = build_tower(width, design.convs), build_tower(width, design.convs)
        self.cls_logits = nn.Conv2d(width, classes, 3, padding=1)
        self.bbox_reg, self.centerness = nn.Conv2d(width, 4, 3, padding=1), nn.Conv2d(width, 1, 3, padding=1)
        for layer, bias in ((self.cls_logits, -math.log(1 / PRIOR - 1)), (self.bbox_reg, REACH), (self.centerness, 0)):
            assert layer.bias is not None
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.constant_(layer.bias, bias)

    def forward(self, images: Float[Tensor, "B C H W"], sizes: Shaped[Tensor, "B 2"] | None = None) -> CellOutput:
        return self.answer(self.neck(self.backbone(images).maps))

    def answer(self, levels: Sequence[Float[Tensor, "B _ _ _"]]) -> CellOutput:
        """The answers of all cells of the levels of the pyramid, fine to coarse."""
        logits, reach, centerness, centers, strides = [], [], [], [], []
        for x, stride in zip(levels, self.strides, strict=True):
            kinds, edges = self.cls_tower(x), self.reg_tower(x)
            logits.append(to_rows(self.cls_logits(kinds)))
            reach.append(to_rows(self.bbox_reg(edges)).relu())
            centerness.append(to_rows(self.centerness(edges)))
            centers.append(cell_centers((x.shape[2], x.shape[3]), stride, x.device))
            strides.append(torch.full((x.shape[2] * x.shape[3],), float(stride), device=x.device))
        return CellOutput(
            torch.cat(logits, 1).float(), torch.cat(reach, 1).float(), torch.cat(centerness, 1)[..., 0].float(),
            torch.cat(centers), torch.cat(strides),
        )  # fmt: skip


class TopDown(nn.Module):
    """The maps at `sources` -> as many levels of one width: a 1x1 convolution each, every level is added to the next
    finer one, then a 3x3 convolution each (Lin et al. 2017, arxiv.org/abs/1612.03144)."""

    def __init__(self, widths: Sequence[int], sources: Sequence[int], width: int):
        super().__init__()
        self.sources = tuple(sources)
        laterals = [nn.Conv2d(widths[i], width, 1) for i in self.sources]
        smooth = [nn.Conv2d(width, width, 3, padding=1) for _ in self.sources]
        for layer in (*laterals, *smooth):
            assert layer.bias is not None
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)
        self.laterals, self.smooth = nn.ModuleList(laterals), nn.ModuleList(smooth)

    def forward(self, maps: Sequence[Float[Tensor, "B _ _ _"]]) -> list[Float[Tensor, "B _ _ _"]]:
        merged = [lateral(maps[i]) for lateral, i in zip(self.laterals, self.sources, strict=True)]
        for fine in reversed(range(len(merged) - 1)):
            merged[fine] = merged[fine] + F.interpolate(merged[fine + 1], merged[fine].shape[2:])
        return [smooth(x) for smooth, x in zip(self.smooth, merged, strict=True)]


def build_tower(width: int, convs: int) -> nn.Sequential:
    """3x3 convolutions, each with group norm and ReLU; the levels share it."""
    layers: list[nn.Module] = []
    for _ in range(convs):
        conv = nn.Conv2d(width, width, 3, padding=1)
        assert conv.bias is not None
        nn.init.normal_(conv.weight, std=0.01)
        nn.init.zeros_(conv.bias)
        layers += [conv, map_norm("group", width), nn.ReLU()]
    return nn.Sequential(*layers)


def to_rows(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B H*W C"]:
    """A map as its cells, row by row."""
    return x.flatten(2).mT


def cell_centers(grid: tuple[int, int], stride: float, device: torch.device | None = None) -> Float[Tensor, "N 2"]:
    """The centres (x, y) of the cells of a map, row by row, in pixels of the image [N 2]. torchvision has the corner of
    a cell for its centre, which is half a cell off."""
    y, x = ((torch.arange(n, device=device) + 0.5) * stride for n in grid)
    return torch.stack([x.expand(grid[0], -1), y[:, None].expand(-1, grid[1])], dim=-1).flatten(0, 1)


def choose_levels(strides: Sequence[float], stride: int) -> tuple[int, ...]:
    """The indices of the maps to use, all from `stride` on. Errors: `UsageError` where no map is that coarse."""
    first = stride or min(FINEST, max(strides))
    chosen = tuple(i for i, s in enumerate(strides) if s >= first)
    if not chosen:
        known = ", ".join(f"{s:g}" for s in strides)
        raise UsageError(f"the model has no map at stride {stride} or coarser", f"its strides: {known}")
    return chosen
