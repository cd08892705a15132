"""Freezes parts of a model, and unfreezes them step by step: a function of the step, so it needs no state in
checkpoints.

What is frozen is frozen whole: its parameters, and the running statistics of its batch norms, which change in every
forward pass in training mode (He et al. 2017, section 3.1, and detectors since).
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from vitrail.engine.optim import depth_levels
from vitrail.errors import UsageError


class UnfreezeStage(NamedTuple):
    """Parameters to unfreeze after `step` steps."""

    step: int
    parameters: list[nn.Parameter]


def freeze(frozen: Sequence[list[nn.Parameter]]) -> None:
    """Freezes the parameters of `parts_to_freeze`, and with them what `set_train_mode` finds frozen. Their dropout and
    stochastic depth stay active."""
    for part in frozen:
        for p in part:
            p.requires_grad_(False)


def set_train_mode(model: nn.Module) -> None:
    """Training mode but for frozen norms: they neither update their running statistics nor norm by those of a batch."""
    model.train()
    if not all(p.requires_grad for p in model.parameters()):
        for norm in frozen_norms(model):
            norm.eval()


def frozen_norms(module: nn.Module, learns: bool = True) -> Iterator[nn.Module]:
    """The norms with running statistics of which no parameter learns; one without parameters follows the module that it
    is in. `learns`: whether anything does in what surrounds the module."""
    own = [p.requires_grad for p in module.parameters()]
    learns = any(own) if own else learns
    if isinstance(module, _NormBase) and module.track_running_stats and not learns:
        yield module
    for child in module.children():
        yield from frozen_norms(child, learns)


def parts_to_freeze(
    model: nn.Module, backbone: nn.Module, blocks: Sequence[nn.Module], what: str | int
) -> list[list[nn.Parameter]]:
    """The parameters to freeze: "none", the whole "backbone" (only the head learns), or the stem and the first `what`
    blocks; from the head down, block by block, the stem last. Layers of the backbone after its last block belong to
    that block. Errors: `UsageError` for more blocks than the model has."""
    if what in ("none", 0):
        return []
    if isinstance(what, int) and what > len(blocks):
        raise UsageError(
            f"optim.freeze is {what} blocks and the model has {len(blocks)}", 'or "backbone" to train the head alone'
        )
    level, own = depth_levels(model, blocks), {id(p) for p in backbone.parameters()}
    by_level: dict[int, list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        if id(p) in own if what == "backbone" else level[name] <= int(what):
            by_level.setdefault(min(level[name], len(blocks)), []).append(p)
    return [by_level[k] for k in sorted(by_level, reverse=True)]


def plan_unfreezing(frozen: Sequence[list[nn.Parameter]], at: Sequence[int], steps: int) -> tuple[UnfreezeStage, ...]:
    """Gradual unfreezing (Howard & Ruder 2018, section 3.3): `frozen`, from the head down, in as many equal parts as
    there are steps in `at`; part i is unfrozen at step at[i]. Errors: `UsageError` for invalid steps."""
    if not at:
        return ()
    text = " ".join(map(str, at))
    if not frozen:
        raise UsageError(
            f"optim.unfreeze_steps is {text}, but nothing is frozen",
            "--optim.freeze backbone, or leave --optim.unfreeze-steps out",
        )
    if any(b <= a for a, b in pairwise(at)):
        raise UsageError(
            f"the steps of optim.unfreeze_steps do not increase: {text}", "each must be later than the one before"
        )
    if at[-1] >= steps:
        raise UsageError(
            f"optim.unfreeze_steps has step {at[-1]}, and the run ends at step {steps}", f"steps below {steps}"
        )
    if len(at) > len(frozen):
        raise UsageError(
            f"optim.unfreeze_steps has {len(at)} steps for {len(frozen)} frozen blocks, the stem counted as one",
            "fewer steps",
        )
    stages: list[UnfreezeStage] = [UnfreezeStage(step, []) for step in at]
    for i, part in enumerate(frozen):
        stages[i * len(at) // len(frozen)].parameters.extend(part)
    return tuple(stages)


def unfreeze_due(stages: Sequence[UnfreezeStage], step: int) -> bool:
    """Unfreezes the parameters that are due after `step` steps; returns whether anything changed."""
    due = [p for stage in stages if stage.step <= step for p in stage.parameters if not p.requires_grad]
    for p in due:
        p.requires_grad_(True)
    return bool(due)
