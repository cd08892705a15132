"""Stochastic depth: whole residual branches are dropped at random in training (Huang et al. 2016)."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from vitrail.shapes import Float

Schedule = Literal["linear", "constant"]


class DropPath(nn.Module):
    """Zeroes a branch for a random share of the samples and scales the others up, in training only.

    torchvision's `StochasticDepth` computes the same, but a model must not need torchvision's import.
    """

    def __init__(self, drop_prob: float):
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        if not self.training or self.drop_prob == 0.0:
            return x
        keep = torch.rand(x.shape[0], *(1,) * (x.ndim - 1), device=x.device) >= self.drop_prob
        return x * keep.to(x.dtype) / (1.0 - self.drop_prob)

    def extra_repr(self) -> str:
        return f"rate={self.drop_prob:.3g}"


class SkipPath(nn.Module):
    """x + branch(x), in training with the branch computed only for the samples that keep it; the others cost nothing.

    The number that keep it is fixed, round((1 - rate) B) and at least one, where `DropPath` samples each independently:
    the mean is the same and the variance smaller. A new subset is sampled each time; its branch is scaled by B / count
    (Oquab et al. 2023, section 5).
    """

    def __init__(self, drop_prob: float):
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Float[Tensor, "*shape"], branch: Callable[[Tensor], Tensor]) -> Float[Tensor, "*shape"]:
        count = max(1, round((1.0 - self.drop_prob) * len(x))) if self.training else len(x)
        if count >= len(x):
            return x + branch(x)
        chosen = torch.randperm(len(x), device=x.device)[:count]
        output = branch(x[chosen])
        return x.index_add(0, chosen, output.to(x.dtype), alpha=len(x) / count)

    def extra_repr(self) -> str:
        return f"rate={self.drop_prob:.3g}"


def drop_rates(rate: float, depth: int, schedule: Schedule) -> list[float]:
    """The rate of each block: rising from 0 to `rate`, or `rate` throughout (as in DeiT III)."""
    if schedule == "constant" or depth == 1:
        return [rate] * depth
    return [rate * i / (depth - 1) for i in range(depth)]
