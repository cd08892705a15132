"""A training that leaves nothing on the disk: of a row of a study."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vitrail.analysis.hooks import still
from vitrail.assembly.data import sampled
from vitrail.assembly.prepare import Prepared
from vitrail.assembly.run_directory import RunFolder
from vitrail.data.dataset import Split
from vitrail.data.splits import held_out
from vitrail.data.subset import spaced
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.engine.signals import Stop
from vitrail.engine.train import NotFinite, train
from vitrail.engine.world import World
from vitrail.errors import DataError
from vitrail.evaluation import evaluate
from vitrail.recipe import Recipe, from_tables, override
from vitrail.training import session
from vitrail.training.loop import batches, loop
from vitrail.training.session import Session


@dataclass
class Trial:
    """A trained model, with the loss and the norm of the gradient (before clipping) of every step. reason: why it ended early, or ""."""

    session: Session
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    reason: str = ""


def short(config: Any, model: Mapping[str, Any], warm: int = 10) -> Recipe:
    """What all rows of a study have in common: AdamW, nothing augmented, no evaluation on the way. config: of a study, with `data`, `lr`,
    `steps` and `batch`. model: its name and keys. warm: one part in so many of the steps is warm-up."""
    return from_tables({
        "model": dict(model),
        "data": {"path": config.data},
        "augment": {"crop": "none", "flip": False},
        "optim": {"lr": config.lr, "warmup": max(1, config.steps // warm), "clip": 1.0},
        "plan": {"steps": config.steps, "batch": config.batch, "eval_every": 0, "precision": "fp32"},
        "machine": {"workers": 0},
    })  # fmt: skip


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
    found = evaluate.evaluate(made.described, part, made.world, made.preprocess, 0, made.precision)
    return float(found.metrics[made.described.task.metric.name])


def batch(split: Split, places: Sequence[int], pre: Preprocess) -> tuple[Tensor, Tensor]:
    """Some pictures of a part as the model takes them, float [B C H W], and their labels."""
    pictures = torch.stack([pre.picture(split.read(int(i))) for i in places])
    return pre.batch(pictures), torch.from_numpy(split.labels[np.asarray(places)])


def held(prepared: Prepared, most: int) -> Split:
    """The part that judges at the end, or so many of its pictures, evenly spaced. Errors: `DataError` for pictures of several classes."""
    if prepared.dataset.multi_label:
        raise DataError(
            "these pictures have several classes each, and this study counts right answers", "give data with one class a picture"
        )
    split = prepared.dataset.splits[held_out(prepared.dataset, final=True)]
    return split if len(split) <= most else split.take(spaced(len(split), most))


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor, chunk: int = 250) -> float:
    """The share of pictures [N C H W] that a classifier, in evaluation mode, tells rightly."""
    with still(model):
        right = [model(x).argmax(1) == y for x, y in zip(images.split(chunk), labels.split(chunk), strict=True)]
    return float(torch.cat(right).double().mean())


def resized(split: Split, pre: Preprocess, size: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """All pictures of a part as a model takes them, at a size, [N C h w] and their labels."""
    images, labels = batch(split, range(len(split)), dataclasses.replace(pre, size=size))
    return images.to(device), labels.to(device)
