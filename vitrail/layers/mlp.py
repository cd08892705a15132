"""The MLP (feed-forward part) of a block."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.shapes import Float

Gelu = Literal["erf", "tanh", "quick"]


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x): the approximation of GELU in OpenAI's CLIP (Radford et al. 2021); it differs by up to
    0.02."""

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        return x * (1.702 * x).sigmoid()


def gelu(form: Gelu) -> nn.Module:
    """GELU, exact ("erf"), as the original JAX code approximates it ("tanh"; they differ by up to 5e-4), or "quick"."""
    return QuickGELU() if form == "quick" else nn.GELU(approximate="none" if form == "erf" else "tanh")


class Mlp(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, width: int, hidden: int, form: Gelu = "erf", dropout: float = 0.0):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = gelu(form)
        self.fc2 = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        x = self.dropout(self.act(self.fc1(x)))
        x = self.dropout(self.fc2(x))
        return x


class SwiGLU(nn.Module):
    """fc2(silu(gate) * value), gate and value from one projection (Shazeer 2020); `hidden` is the width of each."""

    def __init__(self, width: int, hidden: int, dropout: float = 0.0):
        super().__init__()
        self.w12 = nn.Linear(width, 2 * hidden)
        self.w3 = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        gate, value = self.w12(x).chunk(2, dim=-1)
        x = self.dropout(F.silu(gate) * value)
        x = self.dropout(self.w3(x))
        return x
