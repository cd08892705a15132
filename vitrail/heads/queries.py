"""Object queries of a decoder: learned position embeddings, as in DETR, or anchor boxes that each layer refines."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from vitrail.heads.box_positions import BoxBias, sines_of_boxes
from vitrail.heads.detr_layers import Memory, build_mlp
from vitrail.shapes import Float

EDGE = 1e-5  # least distance of box coordinates from 0 and 1, so that their logits are finite


class ObjectQueries(nn.Module, ABC):
    """The initial state of queries, their position encodings, and how the box head's output becomes a box."""

    @abstractmethod
    def start(self, batch: int) -> tuple[Tensor, Tensor]:
        """Contents [B Q W] and initial boxes [B Q 4]."""

    @abstractmethod
    def attention_terms(self, layer: int, boxes: Tensor, memory: Memory) -> tuple[Tensor, Tensor | None]:
        """The position encodings of the queries [B Q W], and the bias on their logits over the memory, broadcast to [B
        h Q N]."""

    @abstractmethod
    def update_boxes(self, offsets: Float[Tensor, "B Q 4"], boxes: Float[Tensor, "B Q 4"]) -> Float[Tensor, "B Q 4"]:
        """The box head's output [B Q 4] and the previous boxes -> centre x, centre y, width, height in (0, 1)."""


class LearnedQueries(ObjectQueries):
    """Contents start at zero, position embeddings are learned, each layer predicts boxes from scratch: DETR."""

    def __init__(self, queries: int, width: int):
        super().__init__()
        self.places = nn.Parameter(torch.randn(queries, width))

    def start(self, batch: int) -> tuple[Tensor, Tensor]:
        queries, width = self.places.shape
        return self.places.new_zeros(batch, queries, width), self.places.new_zeros(batch, queries, 4)

    def attention_terms(self, layer: int, boxes: Tensor, memory: Memory) -> tuple[Tensor, Tensor | None]:
        return self.places, memory.bias

    def update_boxes(self, offsets: Float[Tensor, "B Q 4"], boxes: Float[Tensor, "B Q 4"]) -> Float[Tensor, "B Q 4"]:
        return offsets.sigmoid()


class AnchorQueries(ObjectQueries):
    """Queries are anchor boxes: each layer encodes them by sines of their boxes, biases attention by their positions,
    and refines them (Liu et al. 2022, DAB-DETR: arxiv.org/abs/2201.12329)."""

    def __init__(self, queries: int, width: int, heads: int, layers: int):
        super().__init__()
        self.contents = nn.Parameter(torch.randn(queries, width))
        self.boxes = nn.Parameter(spread_boxes(queries).logit())
        self.places = build_mlp(2 * width, width, width, 2)
        self.bias = nn.ModuleList(BoxBias(heads) for _ in range(layers))

    def start(self, batch: int) -> tuple[Tensor, Tensor]:
        return self.contents.expand(batch, -1, -1), self.boxes.sigmoid().expand(batch, -1, -1)

    def attention_terms(self, layer: int, boxes: Tensor, memory: Memory) -> tuple[Tensor, Tensor | None]:
        place = self.places(sines_of_boxes(boxes, self.contents.shape[1]))
        bias = self.bias[layer](boxes, memory.rows, memory.columns)
        return place, bias if memory.bias is None else bias + memory.bias

    def update_boxes(self, offsets: Float[Tensor, "B Q 4"], boxes: Float[Tensor, "B Q 4"]) -> Float[Tensor, "B Q 4"]:
        return (offsets + boxes.clamp(EDGE, 1 - EDGE).logit()).sigmoid()


def spread_boxes(queries: int) -> Float[Tensor, "{queries} 4"]:
    """Boxes that cover the image evenly, a quarter of its width and height: [Q 4]. Their centres are a golden-ratio
    lattice."""
    i = torch.arange(queries, device="cpu", dtype=torch.float64)
    across, down = (i + 0.5) / queries, (i * (5**0.5 - 1) / 2 + 0.5) % 1
    centre = torch.stack([across, down], dim=1) * 0.9 + 0.05
    return torch.cat([centre, torch.full_like(centre, 0.25)], dim=1).float().to(torch.get_default_device())
