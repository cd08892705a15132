"""Attention. Every softmax attention in this package is a subclass that computes its own q, k and v.

`forward` runs torch's fused kernel and never materialises the weights; `weights` does, for inspection. Both are final:
a subclass implements `project`, and `locate`, the positions of queries and keys on the image.
"""

from abc import ABC, abstractmethod
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.errors import UsageError
from vitrail.layers.merge import log_sizes, mean_of_cells
from vitrail.layers.neighbourhood import Neighbourhood, VisiblePairs
from vitrail.layers.norm import norm
from vitrail.layers.relative import CausalBias, LogBias, RelativeBias
from vitrail.layers.rotary import Rotary, Rotation
from vitrail.layers.token_layout import AttentionLayout, self_attention_layout
from vitrail.shapes import Float
from vitrail.types import Grid, TokenLayout, is_free


class PositionTerms(NamedTuple):
    """The parts of attention that depend on positions: `rotary` rotates queries and keys, `relative` adds to the
    logits, `neighbourhood` excludes distant pairs."""

    rotary: Rotation | None = None
    relative: RelativeBias | LogBias | CausalBias | None = None
    neighbourhood: Neighbourhood | None = None


NO_POSITION_TERMS = PositionTerms()
SHORT = 64  # tokens up to which bf16 attention is slower than fp32 on a CPU


def build_position_terms(
    kind: str,
    grid: Grid,
    leading: int,
    heads: int,
    head_width: int,
    rope_base: float,
    radius: int | None,
    relative_width: int = 128,
) -> PositionTerms:
    """The terms for a position encoding of that kind, `leading` tokens before the grid, and a radius of attention."""
    rotary: Rotation | None = None
    relative: RelativeBias | LogBias | None = None
    if kind in ("rope", "rope_half", "learned_rope"):
        rotary = Rotary(head_width, rope_base, "half" if kind == "rope_half" else "interleaved", grid)
    elif kind == "relative":
        relative = RelativeBias(grid, heads, leading)
    elif kind == "relative_log":
        relative = LogBias(grid, heads, leading, relative_width)
    return PositionTerms(rotary, relative, None if radius is None else Neighbourhood(radius))


class AttentionInputs(NamedTuple):
    """Inputs of attention: queries, keys, values [B h N d], the bias added to the logits, broadcast to [B h N M], and
    which pairs are visible where not all are."""

    queries: Tensor
    keys: Tensor
    values: Tensor
    bias: Tensor | None = None
    visible: VisiblePairs | None = None

    def mask(self) -> Tensor | None:
        """Everything that is added to the logits."""
        if self.visible is None:
            return self.bias
        far = self.visible.bias(self.queries)
        return far if self.bias is None else self.bias + far


class Attention(nn.Module, ABC):
    """softmax(q kᵀ / sqrt(d) + bias) v, then a projection (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0, attention_dropout: float = 0.0):
        super().__init__()
        if width % heads:
            near = [h for h in range(1, width + 1) if width % h == 0]
            near.sort(key=lambda h: abs(h - heads))
            raise UsageError(f"width {width} is not divisible by {heads} heads", f"heads that fit: {sorted(near[:4])}")
        self.heads = heads
        self.attention_dropout = attention_dropout
        self.proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    @abstractmethod
    def project(self, *args: Any) -> AttentionInputs:
        """Queries, keys, values and bias from the arguments of `forward`."""

    @abstractmethod
    def locate(self, *args: Any) -> AttentionLayout:
        """The positions of queries and keys on the image, from the same arguments."""

    def inputs(self, *args: Any) -> AttentionInputs:
        """`project`, or the first argument where that is what it gave: of callers that need the keys too."""
        return args[0] if isinstance(args[0], AttentionInputs) else self.project(*args)

    def forward(self, *args: Any) -> Tensor:
        inputs = self.inputs(*args)
        q, k, v = inputs[:3]
        p = self.attention_dropout if self.training else 0.0
        if inputs.visible is not None and inputs.bias is None and p == 0.0 and q.is_cuda:
            mixed = inputs.visible.attend(q, k, v)
        else:
            mixed = attend(q, k, v, inputs.mask(), p)
        out: Tensor = self.proj(merge_heads(mixed))
        return self.dropout(out) if self.training else out

    def weights(self, *args: Any) -> Float[Tensor, "B h N M"]:
        """The attention weights of each query on each key, [B h N M], rows summing to one; no dropout."""
        inputs = self.inputs(*args)
        logits: Tensor = inputs.queries @ inputs.keys.mT / inputs.queries.shape[-1] ** 0.5
        mask = inputs.mask()
        return (logits if mask is None else logits + mask).softmax(-1)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """torch's fused kernel. On a CPU its bf16 gradient takes up to nine times as long as the fp32 one where there are
    few tokens (16: 250 against 36 microseconds an image), so those are computed in fp32."""
    if q.dtype == torch.bfloat16 and q.device.type == "cpu" and is_short(q.shape[-2]):
        with torch.autocast("cpu", enabled=False):  # which would make bf16 of them again
            whole = None if mask is None else mask.float()
            mixed = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), whole, dropout_p=dropout)
        return mixed.to(v.dtype)
    if q.device.type == "cpu" and not dropout and (q.shape[-1] < v.shape[-1] or v.stride(-1) != 1):
        return attend_explicitly(q, k, v, mask)
    return F.scaled_dot_product_attention(q, k, v, mask, dropout_p=dropout)


def attend_explicitly(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """The same written out, for what a CPU's fused kernel does not take: keys narrower than values, or values channels
    first. torch would do so too, and check every row for having no key. The result is channels first in memory."""
    if mask is not None and mask.ndim == 2:  # one for all: scale, product and sum are one call
        queries, keys, values = (t.flatten(0, 1) for t in (q, k, v))
        weights = torch.baddbmm(mask.to(q.dtype), queries, keys.mT, alpha=q.shape[-1] ** -0.5).softmax(-1)
        heads: Tensor = (values.mT @ weights.mT).mT.unflatten(0, q.shape[:2])
        return heads
    logits = (q * q.shape[-1] ** -0.5) @ k.mT
    weights = (logits if mask is None else logits + mask).softmax(-1)
    mixed: Tensor = (v.mT @ weights.mT).mT
    return mixed


def is_short(tokens: int) -> bool:
    """Whether a sequence is so short that bf16 costs more than it saves; not of one whose length is left open."""
    return not is_free(tokens) and tokens <= SHORT


class KeylessLinear(nn.Linear):
    """Queries, keys and values [*B 3D] of tokens [*B D]; keys have no bias (BEiT, Bao et al. 2021).

    It is an `nn.Linear` because weight decay and initialisation depend on the module's class.
    """

    def __init__(self, width: int):
        super().__init__(width, 3 * width, bias=False)
        self.q_bias, self.v_bias = (nn.Parameter(torch.zeros(width)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        return F.linear(x, self.weight, bias)


class SelfAttention(Attention):
    """Tokens of a grid attend to each other. `position_terms`: the parts that depend on their positions."""

    def __init__(
        self,
        width: int,
        heads: int,
        qkv_bias: bool | Literal["keyless"] = True,
        qk_norm: float | None = None,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        position_terms: PositionTerms = NO_POSITION_TERMS,
    ):
        """qkv_bias: "keyless" for queries and values only. qk_norm: the eps of a LayerNorm over each head's queries and
        keys, or None for none (Dehghani et al. 2023)."""
        super().__init__(width, heads, dropout, attention_dropout)
        self.qkv = KeylessLinear(width) if qkv_bias == "keyless" else nn.Linear(width, 3 * width, bias=bool(qkv_bias))
        self.q_norm = nn.Identity() if qk_norm is None else norm("layer", width // heads, qk_norm)
        self.k_norm = nn.Identity() if qk_norm is None else norm("layer", width // heads, qk_norm)
        self.rotary, self.relative, self.neighbourhood = position_terms

    def project(self, x: Tensor, layout: TokenLayout) -> AttentionInputs:
        q, k, v = (split_heads(t, self.heads) for t in self.qkv(x).chunk(3, dim=-1))  # [B h N d]
        q, k = self.q_norm(q), self.k_norm(k)
        grid, leading = layout.grid, layout.leading
        if self.rotary is not None and not (layout.merged is None and layout.kept is None):
            angles = self.rotary.angles(grid, x.device)  # [h*w d/2]
            angles = angles[layout.kept] if layout.merged is None else mean_of_cells(angles, layout.merged)
            q, k = (self.rotary.turn(t, angles[:, None], leading) for t in (q, k))
        elif self.rotary is not None:
            q, k = self.rotary(q, grid, leading), self.rotary(k, grid, leading)
        bias = log_sizes(layout, q) if self.relative is None else self.relative(grid)
        near = None if self.neighbourhood is None else VisiblePairs(self.neighbourhood.radius, grid, leading)
        return AttentionInputs(q, k, v, bias, near)

    def locate(self, x: Tensor | AttentionInputs, layout: TokenLayout) -> AttentionLayout:
        return self_attention_layout(layout)


def split_heads(x: Float[Tensor, "*B N W"], heads: int) -> Float[Tensor, "*B h N d"]:
    split: Tensor = x.unflatten(-1, (heads, -1))
    return split.transpose(-3, -2)  # [B N hd] -> [B h N d]


def merge_heads(x: Float[Tensor, "*B h N d"]) -> Float[Tensor, "*B N W"]:
    return x.transpose(-3, -2).flatten(-2)  # [B h N d] -> [B N hd]


def named_attentions(model: nn.Module) -> dict[str, Attention]:
    """Every softmax attention inside a model, by its name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, Attention)}
