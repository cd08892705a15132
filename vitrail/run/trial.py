"""A training that leaves nothing on the disk: of a row of a study."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitrail.data.dataset import Split
from vitrail.engine.stop import Stop
from vitrail.engine.train import NotFinite, train
from vitrail.engine.world import World
from vitrail.recipe import override
from vitrail.run import evaluate, session
from vitrail.run.folder import RunFolder
from vitrail.run.prepare import Prepared, held_out, sampled
from vitrail.run.session import Session
from vitrail.run.train import batches, loop


@dataclass
class Trial:
    """A trained model, with the loss and the norm of the gradient (before clipping) of every step. reason: why it ended early, or ""."""

    session: Session
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    reason: str = ""


def trained(prepared: Prepared, changes: Mapping[str, dict[str, Any]], seed: int, world: World) -> Trial:
    """A training of the prepared recipe with some keys changed, by section. Numbers that are not finite end it and are told.

    Errors: `UsageError` for keys that no recipe has."""
    recipe = override(prepared.recipe, "plan", {"seed": seed})
    for section, keys in changes.items():
        recipe = override(recipe, section, keys)
    made = session.build(recipe, sampled(prepared.dataset, recipe), RunFolder(Path(".")), world)  # writes nothing
    trial = Trial(made)
    try:
        for report in train(made.state, made.described.task, batches(made), loop(made, Stop())):
            trial.losses.append(sum(float(term) for term in report.terms.values()))
            trial.norms.append(float(report.grad_norm))
    except NotFinite as error:
        trial.reason = error.what
    return trial


def judged(trial: Trial, split: Split | None = None) -> float:
    """The metric that ranks models, on the held-out part or on another."""
    made = trial.session
    part = split or made.dataset.splits[held_out(made.dataset, final=True)]
    metrics, _ = evaluate.judge(made.described, part, made.preprocess, made.world, 0, made.precision)
    return float(metrics[made.described.task.higher_is_better])
