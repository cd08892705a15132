"""Muon: momentum whose singular values are all made one (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

A weight is a matrix [out, everything else], so the taps of a convolution count as inputs. Its momentum is
orthogonalised by five Newton-Schulz iterations of degree five, and the step is scaled to the size of AdamW's, 0.2
sqrt(the longer side) (Liu et al. 2025, arxiv.org/abs/2502.16982), so that one learning rate fits both. Matrices of one
shape are orthogonalised together: a small model has many, and each product of its own would cost more than it computes.
Of weights that are divided among processes the momentum is gathered, and each process takes its part of the result.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vitrail.engine.processes.tensors import divide, local_part, whole_tensor

QUINTIC = (3.4445, -4.7750, 2.0315)  # a x + b x^3 + c x^5 brings singular values to 0.7 to 1.2 in five iterations
ITERATIONS = 5
RMS = 0.2  # root mean square of an entry of AdamW's updates


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay; every weight has two dimensions or more."""

    def __init__(self, parameter_groups: list[dict[str, Any]], momentum: float = 0.95):
        super().__init__(parameter_groups, {"lr": 1.0, "momentum": momentum, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of everything that has a gradient. The closure is not used: the loop has computed the
        gradients."""
        for group in self.param_groups:
            alike: dict[tuple[int, int], list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    sides = matrix_sides(p)
                    alike.setdefault((min(sides), max(sides)), []).append(p)
            for weights in alike.values():
                self.update(weights, group)

    def update(self, weights: Sequence[Tensor], group: dict[str, Any]) -> None:
        """Updates weights whose matrices have the same sides, either way round."""
        wide = [whole_tensor(self.direction(p, group["momentum"])).flatten(1) for p in weights]
        wide = [m.mT if len(m) > m.shape[1] else m for m in wide]
        size = group["lr"] * RMS * math.sqrt(wide[0].shape[1])
        for p, move in zip(weights, orthogonalise(torch.stack(wide)), strict=True):
            rows, columns = matrix_sides(p)
            matrix = local_part(divide((move.mT if rows > columns else move).reshape(p.shape), p))
            local_part(p.detach()).mul_(1 - group["lr"] * group["weight_decay"]).add_(matrix, alpha=-size)

    def direction(self, p: Tensor, momentum: float) -> Tensor:
        """Nesterov's momentum of a weight, with this gradient in it."""
        assert p.grad is not None
        state = self.state[p]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(p)
        buffer: Tensor = state["momentum_buffer"]
        buffer.lerp_(p.grad, 1 - momentum)
        moved: Tensor = p.grad.lerp(buffer, momentum)
        return moved


def matrix_sides(p: Tensor) -> tuple[int, int]:
    """Rows and columns of a weight as a matrix."""
    return p.shape[0], p.numel() // p.shape[0]


def orthogonalise(matrices: Tensor) -> Tensor:
    """Matrices [K n m], n <= m, with nearly orthonormal rows in place of their own."""
    a, b, c = QUINTIC
    x: Tensor = matrices / matrices.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x
