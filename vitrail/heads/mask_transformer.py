"""The mask transformer of Segmenter (Strudel et al. 2021, arxiv.org/abs/2105.05633, section 3.2)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.layers import init
from vitrail.layers.attention import SelfAttention
from vitrail.layers.mlp import Mlp
from vitrail.types import TokenLayout

DEPTH = 2
HEAD_WIDTH = 64


class Block(nn.Module):
    """x + attention, x + MLP, each after its norm."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = SelfAttention(width, heads, dropout=dropout, attention_dropout=dropout)
        self.mlp = Mlp(width, 4 * width, dropout=dropout)

    def forward(self, x: Tensor, layout: TokenLayout) -> Tensor:
        x = x + self.attn(self.norm1(x), layout)
        return x + self.mlp(self.norm2(x))


class MaskTransformer(nn.Module):
    """The last map, of `stride` pixels per cell -> logits [B K h w]: an embedding of each class goes through two blocks
    together with the cells, and the logit of a cell is its cosine with the class, normed over the classes."""

    def __init__(self, widths: Sequence[int], classes: int, width: int, dropout: float, stride: float):
        super().__init__()
        self.stride = stride
        self.inside = nn.Linear(widths[-1], width)
        self.classes = nn.Parameter(torch.empty(classes, width))
        self.blocks = nn.ModuleList(Block(width, count_heads(width), dropout) for _ in range(DEPTH))
        self.norm = nn.LayerNorm(width)
        self.cell_proj, self.class_proj = (nn.Parameter(torch.empty(width, width)) for _ in range(2))
        self.mask_norm = nn.LayerNorm(classes)
        init.initialise(self, "truncated")
        nn.init.trunc_normal_(self.classes, std=0.02)
        for projection in (self.cell_proj, self.class_proj):
            nn.init.normal_(projection, std=width**-0.5)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        grid = (maps[-1].shape[2], maps[-1].shape[3])
        layout = TokenLayout(grid, (self.stride, self.stride), trailing=len(self.classes))
        x = self.inside(maps[-1].flatten(2).mT)  # [B hw D]
        cells = layout.cells
        x = torch.cat([x, self.classes.expand(x.shape[0], -1, -1)], dim=1)  # [B hw+K D]
        for block in self.blocks:
            x = block(x, layout)
        x = self.norm(x)
        cell, kind = x[:, :cells] @ self.cell_proj, x[:, cells:] @ self.class_proj
        masks = F.normalize(cell, dim=-1) @ F.normalize(kind, dim=-1).mT  # [B hw K]
        return self.mask_norm(masks).mT.unflatten(2, grid)


def count_heads(width: int) -> int:
    """Heads of 64 channels, or of the next larger number that divides the width."""
    return next(heads for heads in range(max(1, width // HEAD_WIDTH), 0, -1) if width % heads == 0)
