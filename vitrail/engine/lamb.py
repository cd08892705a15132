"""LAMB: Adam whose step in each layer is the learning rate times the norm of its weights (You et al. 2020,
arxiv.org/abs/1904.00962).

Adam's update is computed with its bias correction, weight decay is added to it, and the sum is scaled by |weights| /
|update|, weight tensor by weight tensor. Parameters without decay (biases, norms, tokens) take Adam's plain update, as
in the code of DeiT III and "ResNet strikes back". The training loop clips gradients, not this file.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vitrail.engine.processes.tensors import local_part, norms


class Lamb(torch.optim.Optimizer):
    """Every parameter counts its own steps, so that the bias correction of one that is unfrozen later starts at its
    first step."""

    def __init__(
        self, parameter_groups: list[dict[str, Any]], betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-6
    ):
        super().__init__(parameter_groups, {"lr": 1.0, "betas": betas, "eps": eps, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of everything that has a gradient. The closure is not used: the loop has computed the
        gradients."""
        for group in self.param_groups:
            trained: list[Tensor] = [p for p in group["params"] if p.grad is not None]
            if trained:
                update(trained, [self.moments(p) for p in trained], group)

    def moments(self, p: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[p]
        if not state:
            state["step"] = torch.zeros((), device=p.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
        return state


def update(weights: list[Tensor], states: list[dict[str, Tensor]], group: dict[str, Any]) -> None:
    """Updates `weights`, all of one group, by their gradients, without synchronising the device. Of divided weights
    each process updates its part; only the norms are of the whole."""
    (beta1, beta2), decay = group["betas"], group["weight_decay"]
    grads = [local_part(p.grad) for p in weights if p.grad is not None]
    steps, means, squares = ([local_part(s[key]) for s in states] for key in ("step", "exp_avg", "exp_avg_sq"))
    torch._foreach_add_(steps, 1)
    torch._foreach_lerp_(means, grads, 1 - beta1)
    torch._foreach_mul_(squares, beta2)
    torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)
    roots = torch._foreach_sqrt(squares)
    torch._foreach_div_(roots, torch._foreach_sqrt(corrections(beta2, steps)))
    torch._foreach_add_(roots, group["eps"])
    moves: Any = torch._foreach_div(means, corrections(beta1, steps))
    torch._foreach_div_(moves, roots)
    own = [local_part(p.detach()) for p in weights]
    if decay:
        torch._foreach_add_(moves, own, alpha=decay)
        torch._foreach_mul_(moves, trust(own, moves, weights[0]))
    torch._foreach_add_(own, moves, alpha=-group["lr"])


def corrections(beta: float, steps: list[Tensor]) -> list[Tensor]:
    """1 - beta^step: the bias of moving averages that start at zero."""
    powers = torch._foreach_pow(beta, steps)
    torch._foreach_neg_(powers)
    torch._foreach_add_(powers, 1)
    return list(powers)


def trust(weights: Sequence[Tensor], moves: Sequence[Tensor], like: Tensor) -> list[Tensor]:
    """|weights| / |move| of each; 1 where either is zero. like: a weight, divided among processes as all are."""
    each = norms([*weights, *moves], like)
    pairs = zip(each[: len(weights)], each[len(weights) :], strict=True)
    return [torch.where((w > 0) & (m > 0), w / m, 1.0) for w, m in pairs]
