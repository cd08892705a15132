"""What a decoder asks with: slots that learn their own places, as DETR has them, or boxes that move from layer to layer."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from vitrail.heads.box_positions import BoxBias, sines_of_boxes
from vitrail.heads.detr_layers import Memory, build_mlp
from vitrail.shapes import Float

EDGE = 1e-5  # boxes stay that far inside (0, 1), where their logits are finite


class ObjectQueries(nn.Module, ABC):
    """Where queries begin, what tells them where they are, and how the box head's answer becomes a box."""

    @abstractmethod
    def start(self, batch: int) -> tuple[Tensor, Tensor]:
        """Contents [B Q W] and first boxes [B Q 4]."""

    @abstractmethod
    def attention_terms(self, layer: int, boxes: Tensor, memory: Memory) -> tuple[Tensor, Tensor | None]:
        """The places of the queries [B Q W], and what is added to their logits over the memory, broadcast to [B h Q N]."""

    @abstractmethod
    def update_boxes(self, offsets: Float[Tensor, "B Q 4"], boxes: Float[Tensor, "B Q 4"]) -> Float[Tensor, "B Q 4"]:
        """The box head's answer [B Q 4] given the boxes before -> centre x, centre y, width, height in (0, 1)."""


class LearnedQueries(ObjectQueries):
    """Contents begin at nothing, places are learned, boxes are said anew by each layer: DETR."""

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
    """Queries are boxes: each layer tells them apart by sines of their boxes, looks by where these are, and moves them
    (Liu et al. 2022, DAB-DETR: arxiv.org/abs/2201.12329)."""

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
    """Boxes that cover the image evenly, a quarter of it wide and high: [Q 4]. Their centres are a golden-ratio lattice."""
    i = torch.arange(queries, device="cpu", dtype=torch.float64)
    across, down = (i + 0.5) / queries, (i * (5**0.5 - 1) / 2 + 0.5) % 1
    centre = torch.stack([across, down], dim=1) * 0.9 + 0.05
    return torch.cat([centre, torch.full_like(centre, 0.25)], dim=1).float().to(torch.get_default_device())
