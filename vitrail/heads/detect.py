"""The detection head: set prediction of boxes and their classes (DETR, Carion et al. 2020,
arxiv.org/abs/2005.12872)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vitrail.contracts import HeadedModel
from vitrail.errors import UsageError
from vitrail.heads.box_positions import cell_centers, cells_inside, sine_positions
from vitrail.heads.detr_layers import DecoderLayer, EncoderLayer, Memory, build_mlp
from vitrail.heads.pyramid import SimplePyramid, simple_strides
from vitrail.heads.queries import AnchorQueries, LearnedQueries, ObjectQueries
from vitrail.layers.position import check_width
from vitrail.shapes import Float, Shaped
from vitrail.types import DetectionOutput, TokenLayout

CELLS = 8  # least number of cells of the finest map across the shorter side of an image, where there is such a map


@dataclass(frozen=True)
class DetectorConfig:
    """The transformer of a detector, on top of its backbone."""

    queries: int
    kind: Literal["anchors", "slots"]
    width: int
    heads: int
    encoder: int  # layers
    decoder: int
    hidden: int  # width inside the feed-forward parts
    dropout: float
    stride: int  # of the finest map used, together with all coarser ones; 0: chosen by `choose_maps`
    maps: Literal["all", "last"] = "all"  # "last": of those maps the last alone
    neck: Literal["none", "simple"] = "none"  # "simple": `SimplePyramid` between the backbone and the transformer


class Detector(HeadedModel):
    """Images [B C H W] -> `DetectionOutput`, in training and out of it alike.

    `sizes` [B 2] are the heights and widths of the images, each at the top left of its canvas; by default they fill it.
    """

    takes_sizes = True

    def __init__(self, backbone: Any, classes: int, design: DetectorConfig):
        check_width(design.width, 4, "a detector")
        super().__init__(backbone, classes)
        width, heads, self.design = design.width, design.heads, design
        simple = design.neck == "simple"
        strides = simple_strides(backbone.strides) if simple else backbone.strides
        chosen = choose_maps(strides, design.stride, backbone.config.size)
        self.maps = chosen[-1:] if design.maps == "last" else chosen
        self.strides, inside = tuple(strides[i] for i in self.maps), backbone.map_widths
        self.neck = SimplePyramid(inside, backbone.strides, width, self.maps) if simple else None
        self.sources = self.maps if self.neck is None else self.neck.sources  # of the backbone's maps
        self.input_proj = nn.ModuleList(nn.Conv2d(width if simple else inside[i], width, 1) for i in self.maps)
        self.levels = nn.Embedding(len(self.maps), width) if len(self.maps) > 1 else None
        inner = (width, heads, design.hidden, design.dropout)
        self.encoder = nn.ModuleList(EncoderLayer(*inner) for _ in range(design.encoder))
        self.decoder = nn.ModuleList(DecoderLayer(*inner) for _ in range(design.decoder))
        self.norm = nn.LayerNorm(width)
        self.queries: ObjectQueries
        self.queries = (
            LearnedQueries(design.queries, width)
            if design.kind == "slots"
            else AnchorQueries(design.queries, width, heads, design.decoder)
        )
        self.class_embed = nn.Linear(width, classes + 1)
        self.bbox_embed = build_mlp(width, width, 4, 3)
        if design.kind == "anchors":  # boxes initially stay where they are
            last = self.bbox_embed[-1]
            assert isinstance(last, nn.Linear)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, images: Float[Tensor, "B C H W"], sizes: Shaped[Tensor, "B 2"] | None = None) -> DetectionOutput:
        states, boxes = self.decode(self.encode(images, sizes))
        return DetectionOutput(self.class_embed(states[-1]).float(), boxes[-1])

    def forward_all(
        self, images: Float[Tensor, "B C H W"], sizes: Shaped[Tensor, "B 2"] | None = None
    ) -> DetectionOutput:
        """The predictions of every decoder layer: logits [L B Q K+1], boxes [L B Q 4]. All of them are trained."""
        states, boxes = self.decode(self.encode(images, sizes))
        return DetectionOutput(self.class_embed(torch.stack(states)).float(), torch.stack(boxes))

    def encode(self, images: Float[Tensor, "B C H W"], sizes: Shaped[Tensor, "B 2"] | None) -> Memory:
        """The backbone's maps after the encoder."""
        canvas = images.shape[-2:]
        every = self.backbone(images).maps
        maps = [every[i] for i in self.maps] if self.neck is None else self.neck(every)
        extents = torch.tensor([canvas], device=images.device) if sizes is None else sizes.to(images.device)
        values, places, biases, rows, columns, layouts = [], [], [], [], [], []
        for level, (x, stride, proj) in enumerate(zip(maps, self.strides, self.input_proj, strict=True)):
            h, w = x.shape[-2:]
            down, across = cells_inside(extents[:, 0], canvas[0], h), cells_inside(extents[:, 1], canvas[1], w)
            place = sine_positions(down, across, self.design.width)
            values.append(proj(x).flatten(2).mT)
            places.append(place if self.levels is None else place + self.levels.weight[level])
            biases.append((down[:, :, None] & across[:, None]).flatten(1))
            rows.append(cell_centers(extents[:, 0], canvas[0], h))
            columns.append(cell_centers(extents[:, 1], canvas[1], w))
            layouts.append(TokenLayout((h, w), (stride, stride)))
        valid = torch.cat(biases, dim=1)[:, None, None]
        bias = None if sizes is None else torch.zeros_like(valid, dtype=torch.float32).masked_fill(~valid, -torch.inf)
        memory = Memory(
            torch.cat(values, dim=1), torch.cat(places, dim=1), bias, tuple(rows), tuple(columns), tuple(layouts)
        )
        for layer in self.encoder:
            memory = layer(memory)
        return memory

    def decode(self, memory: Memory) -> tuple[list[Tensor], list[Tensor]]:
        """For every decoder layer, the queries' states after the shared norm [B Q W], and their boxes [B Q 4]."""
        x, boxes = self.queries.start(memory.values.shape[0])
        keys = memory.values + memory.positions
        states, predictions = [], []
        for i, layer in enumerate(self.decoder):
            positions, bias = self.queries.attention_terms(i, boxes, memory)
            x = layer(x, positions, keys, memory, bias)
            states.append(self.norm(x))
            predictions.append(self.queries.update_boxes(self.bbox_embed(states[-1]).float(), boxes))
            boxes = predictions[-1].detach()
        return states, predictions


def choose_maps(strides: Sequence[float], stride: int, size: tuple[int, int]) -> tuple[int, ...]:
    """The indices of the maps to use: all from `stride` on, or with 0 from the coarsest on that has `CELLS`
    cells across an image of `size`. Errors: `UsageError` where no map is that coarse."""
    fine_enough = [i for i, s in enumerate(strides) if min(size) >= CELLS * s]
    first = strides[max(fine_enough, default=0)] if stride == 0 else stride
    chosen = tuple(i for i, s in enumerate(strides) if s >= first)
    if not chosen:
        raise UsageError(
            f"the model has no map at stride {stride} or coarser",
            f"its strides: {', '.join(f'{s:g}' for s in strides)}",
        )
    return chosen
