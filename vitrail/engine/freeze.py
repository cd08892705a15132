"""What of a model does not learn, and from which step on it does: a function of the step, so nothing of it is saved."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from torch import nn

from vitrail.engine.optim import depth_levels
from vitrail.errors import UsageError


class UnfreezeStage(NamedTuple):
    """Parameters that begin to learn when `step` steps have been done."""

    step: int
    parameters: list[nn.Parameter]


def freeze(frozen: Sequence[list[nn.Parameter]]) -> None:
    """Stops `parts_to_freeze` from learning. Their dropout and stochastic depth stay as they are."""
    for part in frozen:
        for p in part:
            p.requires_grad_(False)


def parts_to_freeze(
    model: nn.Module, backbone: nn.Module, blocks: Sequence[nn.Module], what: str | int
) -> list[list[nn.Parameter]]:
    """What is to be frozen: "none", the whole "backbone" (only the head learns), or the stem and the first `what` blocks; from the head
    down, block by block, the stem last. What the backbone has above its last block belongs to that block. Errors: `UsageError` where
    there are fewer blocks than that."""
    if what in ("none", 0):
        return []
    if isinstance(what, int) and what > len(blocks):
        raise UsageError(
            f"optim.freeze is {what} blocks and the model has {len(blocks)}", 'or "backbone" to train the head alone'
        )
    level, own = depth_levels(model, blocks), {id(p) for p in backbone.parameters()}
    found: dict[int, list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        if id(p) in own if what == "backbone" else level[name] <= int(what):
            found.setdefault(min(level[name], len(blocks)), []).append(p)
    return [found[k] for k in sorted(found, reverse=True)]


def plan_unfreezing(frozen: Sequence[list[nn.Parameter]], at: Sequence[int], steps: int) -> tuple[UnfreezeStage, ...]:
    """Gradual unfreezing (Howard & Ruder 2018, section 3.3): `frozen`, from the head down, in as many equal parts as there are steps
    in `at`; part i begins to learn at step at[i]. Errors: `UsageError` for steps that mean nothing."""
    if not at:
        return ()
    told = " ".join(map(str, at))
    if not frozen:
        raise UsageError(
            f"optim.unfreeze_steps is {told}, but nothing is frozen", "--optim.freeze backbone, or leave unfreeze out"
        )
    if any(b <= a for a, b in pairwise(at)):
        raise UsageError(f"the steps of optim.unfreeze_steps do not rise: {told}", "each is later than the one before")
    if at[-1] >= steps:
        raise UsageError(
            f"optim.unfreeze_steps says step {at[-1]}, and the run ends at step {steps}", f"steps below {steps}"
        )
    if len(at) > len(frozen):
        raise UsageError(
            f"optim.unfreeze_steps has {len(at)} steps for {len(frozen)} frozen blocks, the stem counted as one",
            "fewer steps",
        )
    made: list[UnfreezeStage] = [UnfreezeStage(step, []) for step in at]
    for i, part in enumerate(frozen):
        made[i * len(at) // len(frozen)].parameters.extend(part)
    return tuple(made)


def unfreeze_due(stages: Sequence[UnfreezeStage], step: int) -> bool:
    """Lets learn what is due after `step` steps; returns whether anything changed."""
    due = [p for wave in stages if wave.step <= step for p in wave.parameters if not p.requires_grad]
    for p in due:
        p.requires_grad_(True)
    return bool(due)
