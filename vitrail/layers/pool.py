"""Attention pooling: a learned query summarises an image, where others take a token or a mean."""

import torch
from torch import Tensor, nn

from vitrail.layers.attention import Attention, AttentionInputs, split_heads
from vitrail.layers.token_layout import AttentionLayout, cross_attention_layout, side_of
from vitrail.shapes import Float
from vitrail.types import TokenLayout, unplaced_tokens


class LatentAttention(Attention):
    """A learned query attends to every token of a sequence [B N D]: [B 1 D]."""

    def __init__(self, width: int, heads: int):
        super().__init__(width, heads)
        self.latent = nn.Parameter(torch.empty(1, width))
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        nn.init.trunc_normal_(self.latent, std=width**-0.5)

    def project(self, x: Tensor, layout: TokenLayout) -> AttentionInputs:
        queries = self.q(self.latent).expand(x.shape[0], -1, -1)
        q, k, v = (split_heads(t, self.heads) for t in (queries, *self.kv(x).chunk(2, dim=-1)))  # [B h N d]
        return AttentionInputs(q, k, v)

    def locate(self, x: Tensor, layout: TokenLayout) -> AttentionLayout:
        return cross_attention_layout(side_of(unplaced_tokens(1)), side_of(layout))


class AttentionPool(nn.Module):
    """y + MLP(norm(y)), where y is what a learned query gathers from all tokens [B N D]: [B D]. It is the head of
    "Scaling vision transformers" (Zhai et al. 2021, "MAP") and of SigLIP (Zhai et al. 2023)."""

    def __init__(self, width: int, heads: int, norm: nn.Module, mlp: nn.Module):
        super().__init__()
        self.attn = LatentAttention(width, heads)
        self.norm, self.mlp = norm, mlp

    def forward(self, x: Float[Tensor, "B N D"], layout: TokenLayout) -> Float[Tensor, "B D"]:
        y = self.attn(x, layout)
        pooled: Tensor = y + self.mlp(self.norm(y))
        return pooled[:, 0]
