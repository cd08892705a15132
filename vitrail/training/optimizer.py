"""The optimiser of a recipe, its frozen parameters and when they unfreeze."""

import torch
from torch import nn

from vitrail.assembly.checks import check_recipe
from vitrail.contracts import Task, trunk_of
from vitrail.engine.freeze import UnfreezeStage, freeze, parts_to_freeze, plan_unfreezing
from vitrail.engine.optim import OptimizerSettings, build_optimizer, build_parameter_groups, hidden_matrices
from vitrail.engine.processes.parallel import towers_of
from vitrail.engine.state import State, build_average, build_ema
from vitrail.engine.teacher import MeanTeacher
from vitrail.errors import UsageError
from vitrail.recipe import Recipe, with_defaults


def build_state(
    recipe: Recipe, net: nn.Module, task: Task, device: torch.device
) -> tuple[State, tuple[UnfreezeStage, ...]]:
    """The state of a new run, its parameters frozen as set, and the stages of unfreezing.

    Errors: `UsageError` for settings that contradict each other.
    """
    check_recipe(recipe)
    o = with_defaults(recipe.optim)
    trunk = trunk_of(net)
    blocks = list(trunk.blocks)
    if recipe.runtime.channels_last:
        net.to(memory_format=torch.channels_last)
    frozen = parts_to_freeze(net, trunk, blocks, o.freeze or 0)
    stages = plan_unfreezing(frozen, o.unfreeze_steps or (), recipe.train.steps or 0)
    freeze(frozen)
    if not any(p.requires_grad for p in net.parameters()):
        raise UsageError(f"optim.freeze {o.freeze} leaves nothing to train", "freeze fewer blocks")
    groups = build_parameter_groups(net, blocks, o.weight_decay or 0.0, o.layer_decay or 1.0)
    numbers = OptimizerSettings(o.betas or (0.0, 0.0), o.eps, o.momentum)
    matrices = [w for tower in towers_of(net) for w in hidden_matrices(tower, list(tower.blocks))]
    optimizer = build_optimizer(o.name or "adamw", groups, matrices, numbers)
    scaler = torch.amp.GradScaler(device.type) if recipe.train.precision == "fp16" else None
    ema, ema2 = (build_ema(net, decay) if decay else None for decay in (o.ema_decay, o.ema_decay_2))
    if isinstance(task, MeanTeacher) and o.ema_decay:
        base, steps = o.ema_decay, recipe.train.steps or 1
        ema = build_average(net, lambda count: task.decay(base, count - 1, steps))
    return State(net, optimizer, ema, scaler, ema2=ema2, task=task), stages
