"""The transformer of DETR (Carion et al. 2020, appendix A.3): post-norm layers in which positions are added to queries
and keys only."""

from typing import NamedTuple

from torch import Tensor, nn

from vitrail.layers.attention import Attention, AttentionInputs, split_heads
from vitrail.layers.token_layout import AttentionLayout, cross_attention_layout, side_of_maps
from vitrail.shapes import Float
from vitrail.types import TokenLayout, unplaced_tokens

Layouts = tuple[TokenLayout, ...]  # of concatenated maps


class Memory(NamedTuple):
    """The memory of the decoder: the concatenated cells of one or more maps."""

    values: Tensor  # [B N W]
    positions: Tensor  # [B N W], or [1 N W] where all images fill their canvas
    bias: Tensor | None  # [B 1 1 N], minus infinity at padding; None where there is none
    rows: tuple[Tensor, ...]  # the centres of the rows of each map, as shares of the image: [B h] or [1 h]
    columns: tuple[Tensor, ...]  # likewise [B w]
    layouts: Layouts  # of each map


class CrossAttention(Attention):
    """Attention with separate inputs for queries, keys and values."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__(width, heads, attention_dropout=dropout)
        self.q, self.k, self.v = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)
        for part in (self.q, self.k, self.v):  # the gain of one matrix of three times the height, as in the original
            nn.init.xavier_uniform_(part.weight, gain=2**-0.5)
            nn.init.zeros_(part.bias)
        nn.init.xavier_uniform_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def project(self, queries: Tensor, keys: Tensor, values: Tensor, places: tuple[Layouts, Layouts],
                bias: Tensor | None = None) -> AttentionInputs:  # fmt: skip
        """[B N W], [B M W], [B M W], the layouts of queries and keys, and the bias on the logits, broadcast to [B h N
        M]."""
        q, k, v = self.q(queries), self.k(keys), self.v(values)
        return AttentionInputs(split_heads(q, self.heads), split_heads(k, self.heads), split_heads(v, self.heads), bias)

    def locate(self, queries: Tensor, keys: Tensor, values: Tensor, places: tuple[Layouts, Layouts],
               bias: Tensor | None = None) -> AttentionLayout:  # fmt: skip
        return cross_attention_layout(side_of_maps(places[0]), side_of_maps(places[1]))


class EncoderLayer(nn.Module):
    """Self-attention of the cells of the memory."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float):
        super().__init__()
        self.self_attn, self.mlp = CrossAttention(width, heads, dropout), build_feed_forward(width, hidden, dropout)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, memory: Memory) -> Memory:
        x = memory.values
        placed = x + memory.positions
        x = self.norm1(
            x + self.dropout(self.self_attn(placed, placed, x, (memory.layouts, memory.layouts), memory.bias))
        )
        return memory._replace(values=self.norm2(x + self.dropout(self.mlp(x))))


class DecoderLayer(nn.Module):
    """Self-attention of the queries, then cross-attention to the memory."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float):
        super().__init__()
        self.self_attn, self.cross_attn = CrossAttention(width, heads, dropout), CrossAttention(width, heads, dropout)
        self.mlp = build_feed_forward(width, hidden, dropout)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "B Q W"],
        position: Float[Tensor, "*B Q W"],
        keys: Float[Tensor, "B N W"],
        memory: Memory,
        bias: Tensor | None,
    ) -> Float[Tensor, "B Q W"]:
        """Queries x [B Q W], their position encodings, the memory's keys [B N W] and the bias on the cross-attention
        logits."""
        own, placed = (unplaced_tokens(x.shape[1]),), x + position
        x = self.norm1(x + self.dropout(self.self_attn(placed, placed, x, (own, own))))
        x = self.norm2(
            x + self.dropout(self.cross_attn(x + position, keys, memory.values, (own, memory.layouts), bias))
        )
        return self.norm3(x + self.dropout(self.mlp(x)))


def build_feed_forward(width: int, hidden: int, dropout: float) -> nn.Sequential:
    """Two linear layers with ReLU between them; matrices Xavier-uniform, as everywhere in DETR's transformer."""
    first, second = nn.Linear(width, hidden), nn.Linear(hidden, width)
    for layer in (first, second):
        nn.init.xavier_uniform_(layer.weight)
    return nn.Sequential(first, nn.ReLU(), nn.Dropout(dropout), second)


def build_mlp(inside: int, width: int, out: int, depth: int) -> nn.Sequential:
    """`depth` linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Linear(width if i else inside, width if i < depth - 1 else out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
