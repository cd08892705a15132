"""The optimiser over structural groups: what decays and what learns how fast is decided by what a parameter is."""

from collections.abc import Sequence

import torch
from torch import nn

from vitrail.errors import UsageError


def groups(model: nn.Module, blocks: Sequence[nn.Module], weight_decay: float, layer_decay: float = 1.0) -> list[dict]:
    """Parameter groups with their `weight_decay` and a `scale` on the rate.

    Only weights of linear and convolution layers decay. A level k below the head learns at layer_decay^k: the stem is
    level 0, block i is level i + 1, whatever is used after the blocks is the top (Clark et al. 2020; BEiT).
    """
    decays = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    level, top = levels(model, blocks), len(blocks) + 1
    made: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            key = (weight_decay if id(p) in decays else 0.0, layer_decay ** (top - level[name]))
            made.setdefault(key, []).append(p)
    return [{"params": ps, "weight_decay": wd, "scale": scale} for (wd, scale), ps in made.items()]


def levels(model: nn.Module, blocks: Sequence[nn.Module]) -> dict[str, int]:
    """The depth of every parameter: what is registered before the blocks is the stem; what stands between two blocks, such as the
    patch embedding of a stage, belongs to the later one; what comes after the last block is the top."""
    inside = {id(p): i + 1 for i, block in enumerate(blocks) for p in block.parameters()}
    found, reached = {}, 0
    waiting: list[str] = []
    for name, p in model.named_parameters():
        if id(p) not in inside:
            waiting.append(name)
            continue
        for early in waiting:  # parameters since the block before: the stem's, or between blocks
            found[early] = inside[id(p)] if reached else 0
        waiting, reached = [], inside[id(p)]
        found[name] = reached
    return {**found, **dict.fromkeys(waiting, len(blocks) + 1)}


def freeze(model: nn.Module, backbone: nn.Module, blocks: Sequence[nn.Module], what: str | int) -> int:
    """Stops "none", the whole "backbone" (only the head learns), or the stem and the first `what` blocks from learning.
    Returns how many parameters are frozen. Dropout and stochastic depth of frozen parts stay as they are."""
    if what in ("none", 0):
        return 0
    if isinstance(what, int) and what > len(blocks):
        raise UsageError(f"optim.freeze is {what} blocks and the model has {len(blocks)}", 'or "backbone" to train the head alone')
    level, own = levels(model, blocks), {id(p) for p in backbone.parameters()}
    frozen = 0
    for name, p in model.named_parameters():
        if id(p) in own if what == "backbone" else level[name] <= int(what):
            p.requires_grad_(False)
            frozen += p.numel()
    return frozen


def adamw(parameter_groups: list[dict], betas: tuple[float, float], eps: float) -> torch.optim.AdamW:
    """AdamW with one fused update where the device has it (CPU and CUDA do)."""
    fused = all(p.device.type in ("cpu", "cuda") for g in parameter_groups for p in g["params"])
    return torch.optim.AdamW(parameter_groups, lr=1.0, betas=betas, eps=eps, fused=fused)
