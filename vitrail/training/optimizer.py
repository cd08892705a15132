"""What of a recipe's model learns, by which optimiser and from which step on; and what contradicts itself there."""

import torch
from torch import nn

from vitrail.assembly.checks import check
from vitrail.contracts import Task, trunk_of
from vitrail.engine.freeze import Wave, freeze, parts, waves
from vitrail.engine.optim import Numbers, groups, optimizer
from vitrail.engine.state import State, averaged
from vitrail.errors import UsageError
from vitrail.recipe import Recipe, settled


def learner(recipe: Recipe, net: nn.Module, task: Task, device: torch.device) -> tuple[State, tuple[Wave, ...]]:
    """The state of a run that has not begun, with frozen what is to be frozen, and when which of it begins to learn.

    Errors: `UsageError` for settings that contradict each other.
    """
    check(recipe)
    o = settled(recipe.optim)
    trunk = trunk_of(net)
    blocks = list(trunk.blocks)
    if recipe.machine.channels_last:
        net.to(memory_format=torch.channels_last)
    frozen = parts(net, trunk, blocks, o.freeze)
    planned = waves(frozen, o.unfreeze, recipe.plan.steps or 0)
    freeze(frozen)
    if not any(p.requires_grad for p in net.parameters()):
        raise UsageError(f"optim.freeze {o.freeze} leaves nothing to learn", "freeze less")
    made = groups(net, blocks, o.weight_decay or 0.0, o.layer_decay)
    using = optimizer(o.kind, made, blocks, Numbers(o.betas or (0.0, 0.0), o.eps, o.momentum))
    scaler = torch.amp.GradScaler(device.type) if recipe.plan.precision == "fp16" else None
    ema, ema2 = (averaged(net, decay) if decay else None for decay in (o.ema, o.ema2))
    return State(net, using, ema, scaler, ema2=ema2, task=task), planned
