"""One training run of a study, in memory: nothing is written to the disk."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitrail.assembly.data import with_fraction
from vitrail.assembly.prepare import PreparedRun
from vitrail.assembly.run_directory import RunFolder
from vitrail.data.dataset import Split
from vitrail.data.splits import evaluation_part
from vitrail.engine.processes.world import World
from vitrail.engine.signals import StopSignal
from vitrail.engine.train import NonFiniteError, train_steps
from vitrail.evaluation import evaluate
from vitrail.recipe import Recipe, from_tables, override
from vitrail.training.build import build_session
from vitrail.training.session import Session
from vitrail.training.steps import loop_settings, remaining_batches


@dataclass
class Trial:
    """A trained model, its loss and gradient norm (before clipping) at each step. reason: why it ended early, or ""."""

    session: Session
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    reason: str = ""


def short_recipe(config: Any, model: Mapping[str, Any], warm: int = 10) -> Recipe:
    """The recipe that all rows of a study share: AdamW, no augmentation, no evaluation during training.

    config: of a study, with `data`, `lr`, `steps` and `batch`; model: its name and keys; warm: 1 / warm of the steps
    are warm-up.
    """
    return from_tables({
        "model": dict(model),
        "data": {"path": config.data},
        "augment": {"crop": "none", "hflip": False},
        "optim": {"lr": config.lr, "warmup_steps": max(1, config.steps // warm), "clip_grad": 1.0},
        "train": {"steps": config.steps, "batch_size": config.batch, "eval_every": 0, "precision": "fp32"},
        "runtime": {"workers": 0},
    })  # fmt: skip


def run_trial(prepared: PreparedRun, changes: Mapping[str, dict[str, Any]], seed: int, world: World) -> Trial:
    """Trains the prepared recipe with some keys changed, by section. Non-finite values end it, with a `reason`.

    Errors: `UsageError` for unknown keys of a recipe.
    """
    recipe = override(prepared.recipe, "train", {"seed": seed})
    for section, keys in changes.items():
        recipe = override(recipe, section, keys)
    run_session = build_session(
        recipe, with_fraction(prepared.dataset, recipe), RunFolder(Path(".")), world
    )  # writes nothing
    trial = Trial(run_session)
    try:
        for report in train_steps(
            run_session.state,
            run_session.bundle.task,
            remaining_batches(run_session),
            loop_settings(run_session, StopSignal()),
        ):
            trial.losses.append(sum(float(term) for term in report.terms.values()))
            trial.norms.append(float(report.grad_norm))
    except NonFiniteError as error:
        trial.reason = error.what
    return trial


def evaluate_trial(trial: Trial, split: Split | None = None) -> float:
    """The main metric, on the held-out part or on `split`."""
    run_session = trial.session
    part = split or run_session.dataset.splits[evaluation_part(run_session.dataset, final=True)]
    result = evaluate.evaluate(
        run_session.bundle, part, run_session.world, run_session.preprocess, 0, run_session.precision
    )
    return float(result.metrics[run_session.bundle.task.metric.name])
