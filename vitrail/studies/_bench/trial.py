"""A training that leaves nothing on the disk: of a row of a study."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vitrail.analysis.hooks import evaluation_mode
from vitrail.assembly.data import with_fraction
from vitrail.assembly.prepare import PreparedRun
from vitrail.assembly.run_directory import RunFolder
from vitrail.data.dataset import Split
from vitrail.data.splits import evaluation_part
from vitrail.data.subset import evenly_spaced
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.engine.signals import StopSignal
from vitrail.engine.train import NonFiniteError, train_steps
from vitrail.engine.world import World
from vitrail.errors import DataError
from vitrail.evaluation import evaluate
from vitrail.recipe import Recipe, from_tables, override
from vitrail.training.build import build_session
from vitrail.training.loop import loop_settings, remaining_batches
from vitrail.training.session import Session


@dataclass
class Trial:
    """A trained model, with the loss and the norm of the gradient (before clipping) of every step. reason: why it ended early, or ""."""

    session: Session
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    reason: str = ""


def short_recipe(config: Any, model: Mapping[str, Any], warm: int = 10) -> Recipe:
    """What all rows of a study have in common: AdamW, nothing augmented, no evaluation on the way. config: of a study, with `data`, `lr`,
    `steps` and `batch`. model: its name and keys. warm: one part in so many of the steps is warm-up."""
    return from_tables({
        "model": dict(model),
        "data": {"path": config.data},
        "augment": {"crop": "none", "hflip": False},
        "optim": {"lr": config.lr, "warmup_steps": max(1, config.steps // warm), "clip_grad": 1.0},
        "train": {"steps": config.steps, "batch_size": config.batch, "eval_every": 0, "precision": "fp32"},
        "runtime": {"workers": 0},
    })  # fmt: skip


def run_trial(prepared: PreparedRun, changes: Mapping[str, dict[str, Any]], seed: int, world: World) -> Trial:
    """A training of the prepared recipe with some keys changed, by section. Numbers that are not finite end it and are told.

    Errors: `UsageError` for keys that no recipe has."""
    recipe = override(prepared.recipe, "train", {"seed": seed})
    for section, keys in changes.items():
        recipe = override(recipe, section, keys)
    made = build_session(recipe, with_fraction(prepared.dataset, recipe), RunFolder(Path(".")), world)  # writes nothing
    trial = Trial(made)
    try:
        for report in train_steps(
            made.state, made.bundle.task, remaining_batches(made), loop_settings(made, StopSignal())
        ):
            trial.losses.append(sum(float(term) for term in report.terms.values()))
            trial.norms.append(float(report.grad_norm))
    except NonFiniteError as error:
        trial.reason = error.what
    return trial


def evaluate_trial(trial: Trial, split: Split | None = None) -> float:
    """The metric that ranks models, on the held-out part or on another."""
    made = trial.session
    part = split or made.dataset.splits[evaluation_part(made.dataset, final=True)]
    found = evaluate.evaluate(made.bundle, part, made.world, made.preprocess, 0, made.precision)
    return float(found.metrics[made.bundle.task.metric.name])


def load_batch(split: Split, places: Sequence[int], pre: Preprocess) -> tuple[Tensor, Tensor]:
    """Some images of a part as the model takes them, float [B C H W], and their labels."""
    images = torch.stack([pre.image(split.read(int(i))) for i in places])
    return pre.batch(images), torch.from_numpy(split.labels[np.asarray(places)])


def evaluation_split(prepared: PreparedRun, most: int) -> Split:
    """The part that judges at the end, or so many of its images, evenly spaced. Errors: `DataError` for images of several classes."""
    if prepared.dataset.multi_label:
        raise DataError(
            "these images have several classes each, and this study counts right answers",
            "give data with one class an image",
        )
    split = prepared.dataset.splits[evaluation_part(prepared.dataset, final=True)]
    return split if len(split) <= most else split.select(evenly_spaced(len(split), most))


@torch.no_grad()
def compute_accuracy(model: nn.Module, images: Tensor, labels: Tensor, chunk: int = 250) -> float:
    """The share of images [N C H W] that a classifier, in evaluation mode, tells rightly."""
    with evaluation_mode(model):
        right = [model(x).argmax(1) == y for x, y in zip(images.split(chunk), labels.split(chunk), strict=True)]
    return float(torch.cat(right).double().mean())


def load_resized(split: Split, pre: Preprocess, size: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """All images of a part as a model takes them, at a size, [N C h w] and their labels."""
    images, labels = load_batch(split, range(len(split)), dataclasses.replace(pre, size=size))
    return images.to(device), labels.to(device)
