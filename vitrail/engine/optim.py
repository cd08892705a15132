"""The optimiser over structural groups: weight decay and learning rate of a parameter depend on its module."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vitrail.engine.lamb import Lamb
from vitrail.engine.muon import Muon
from vitrail.errors import UsageError


class OptimizerSettings(NamedTuple):
    """The settings of an optimiser besides its learning rate; each takes those that it has."""

    betas: tuple[float, float] = (0.9, 0.999)  # of AdamW and LAMB, and of the AdamW beside Muon
    eps: float = 1e-8
    momentum: float = 0.9  # of SGD and Muon


def build_parameter_groups(
    model: nn.Module, blocks: Sequence[nn.Module], weight_decay: float, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Parameter groups with their `weight_decay` and a `scale` on the learning rate; frozen parameters are included,
    since they may be unfrozen later; without a gradient they are not updated.

    Only weights of linear and convolution layers decay. A level k below the head learns at layer_decay^k: the stem is
    level 0, block i is level i + 1, the layers after the blocks are the top (Clark et al. 2020; BEiT).
    """
    decays = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)}
    level, top = depth_levels(model, blocks), len(blocks) + 1
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        key = (weight_decay if id(p) in decays else 0.0, layer_decay ** (top - level[name]))
        groups.setdefault(key, []).append(p)
    return [{"params": ps, "weight_decay": wd, "scale": scale} for (wd, scale), ps in groups.items()]


def depth_levels(model: nn.Module, blocks: Sequence[nn.Module]) -> dict[str, int]:
    """The depth of every parameter: before the blocks is the stem; between two blocks, such as the patch embedding of
    a stage, belongs to the later one; after the last block is the top."""
    inside = {id(p): i + 1 for i, block in enumerate(blocks) for p in block.parameters()}
    levels, level = {}, 0
    pending: list[str] = []
    for name, p in model.named_parameters():
        if id(p) not in inside:
            pending.append(name)
            continue
        for early in pending:  # parameters since the last block: of the stem, or between blocks
            levels[early] = inside[id(p)] if level else 0
        pending, level = [], inside[id(p)]
        levels[name] = level
    return {**levels, **dict.fromkeys(pending, len(blocks) + 1)}


def build_optimizer(
    kind: str, parameter_groups: list[dict[str, Any]], matrices: Sequence[Tensor], numbers: OptimizerSettings
) -> torch.optim.Optimizer:
    """The optimiser of a name: "adamw", "sgd" with plain momentum, "lamb" or "muon". matrices: those that Muon takes,
    see `hidden_matrices`.

    Errors: `UsageError` where there are none for Muon.
    """
    if kind == "lamb":
        return Lamb(parameter_groups, numbers.betas, numbers.eps)
    if kind == "sgd":  # foreach: the fused one needs a momentum of every parameter
        return torch.optim.SGD(parameter_groups, lr=1.0, momentum=numbers.momentum, foreach=True)
    if kind == "muon":
        return build_muon(parameter_groups, matrices, numbers)
    return build_adamw(parameter_groups, numbers.betas, numbers.eps)


def hidden_matrices(trunk: nn.Module, blocks: Sequence[nn.Module]) -> list[Tensor]:
    """The weights between features: of linear layers inside the blocks, and of convolutions anywhere in the trunk.
    Not of depthwise ones, whose rows are no matrix, nor of those that read the image, as the first layer of a model
    does: they have as many inputs as it."""
    inside = {id(m): m for block in blocks for m in block.modules() if isinstance(m, nn.Linear)}
    convs = [m for m in trunk.modules() if isinstance(m, nn.Conv2d) and m.groups == 1]
    within = {id(m) for block in blocks for m in block.modules()}
    outer = [m for m in convs if id(m) not in within]
    channels = outer[0].in_channels if outer else 0
    taken = [m for m in convs if id(m) in within or m.in_channels != channels]
    weights: list[Tensor] = [m.weight for m in inside.values()]
    return weights + [m.weight for m in taken]


def build_adamw(parameter_groups: list[dict[str, Any]], betas: tuple[float, float], eps: float) -> torch.optim.AdamW:
    """AdamW with one fused update where the device has it (CPU and CUDA do)."""
    fused = all(p.device.type in ("cpu", "cuda") for g in parameter_groups for p in g["params"])
    return torch.optim.AdamW(parameter_groups, lr=1.0, betas=betas, eps=eps, fused=fused)


def build_muon(
    parameter_groups: list[dict[str, Any]], matrices: Sequence[Tensor], numbers: OptimizerSettings
) -> torch.optim.Optimizer:
    """Muon (Jordan et al. 2024) for the given weights, AdamW for everything else."""
    hidden = {id(p) for p in matrices}
    if not hidden:
        what = "optim.name muon is for weights between features, and this model has none"
        raise UsageError(what, "--optim.name adamw")
    inside, outside = (
        [{**g, "params": [p for p in g["params"] if (id(p) in hidden) == wanted]} for g in parameter_groups]
        for wanted in (True, False)
    )
    first = Muon([g for g in inside if g["params"]], numbers.momentum)
    return CombinedOptimizer([first, build_adamw([g for g in outside if g["params"]], numbers.betas, numbers.eps)])


class CombinedOptimizer(torch.optim.Optimizer):
    """Several optimisers as one: their groups in a row, and one state."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]):
        super().__init__([group for part in parts for group in part.param_groups], {})
        self.parts = tuple(parts)
        for part in parts:
            part.state = self.state

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for part in self.parts:
            part.step()
