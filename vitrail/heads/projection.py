"""Heads of learning without labels: they project a backbone's summaries, and are dropped when it is done."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.contracts import HeadedModel
from vitrail.shapes import Float


def build_mlp(widths: Sequence[int], normed: bool) -> nn.Sequential:
    """Linear layers from one width to the next, with GELU between them, after a layer norm where `normed`."""
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(pairwise(widths)):
        if i:
            layers += [*([nn.LayerNorm(before)] if normed else []), nn.GELU()]
        layers.append(nn.Linear(before, after))
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


class PrototypeHead(nn.Module):
    """DINO's head: an MLP, its output at length 1, and the cosine to each of K prototypes, which weight norm holds at
    length 1 (Caron et al. 2021, arxiv.org/abs/2104.14294, appendix C). learns_length: the lengths are learned."""

    def __init__(self, width: int, hidden: int, bottleneck: int, prototypes: int, learns_length: bool = False):
        super().__init__()
        self.mlp = build_mlp((width, hidden, hidden, bottleneck), normed=False)
        self.prototypes = nn.Linear(bottleneck, prototypes, bias=False)
        self.lengths = nn.Parameter(torch.ones(prototypes, 1)) if learns_length else None
        self.is_frozen = False  # prototypes get gradients of zero: processes that train together expect some

    def forward(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B K"]:
        weight = F.normalize(self.prototypes.weight, dim=1)
        if self.lengths is not None:
            weight = weight * self.lengths
        if self.is_frozen:
            weight = weight.detach() + 0 * weight
        return F.linear(F.normalize(self.mlp(x), dim=1), weight)


class ProjectedModel(HeadedModel):
    """Images [B C H W] -> what the head makes of the backbone's summaries, side by side [B D]. There are no classes."""

    def __init__(self, backbone: Any, head: nn.Module):
        super().__init__(backbone, 0)
        self.head = head

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        return self.head(torch.cat(self.backbone(images).summaries, dim=1))
