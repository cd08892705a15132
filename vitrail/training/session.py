"""A run that can be trained: its parts, all that the training loop needs."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from vitrail.analysis.cost import cost, format_bytes
from vitrail.assembly import model
from vitrail.assembly.run_directory import RunFolder
from vitrail.data.dataset import Dataset
from vitrail.data.transforms.base import Transform
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.engine.freeze import UnfreezeStage
from vitrail.engine.precision import Precision
from vitrail.engine.state import State
from vitrail.engine.world import World
from vitrail.errors import DataError
from vitrail.recipe import Change, Recipe
from vitrail.training.feed import Feed
from vitrail.weights.report import LoadReport

STATE_TENSORS = {"adamw": 2, "lamb": 2}  # tensors of an optimiser for each weight; the others have one


@dataclass
class Session:
    """The parts of a run, for the training loop."""

    folder: RunFolder
    recipe: Recipe
    dataset: Dataset
    bundle: model.ModelBundle
    state: State
    feed: Feed
    world: World
    workers: int
    notes: list[str]
    changed: tuple[Change, ...] = ()  # what the user allowed to change on resuming
    unfreeze_stages: tuple[UnfreezeStage, ...] = ()  # the frozen parameters to unfreeze, by step
    load_report: LoadReport | None = None  # of the initial weights
    news: list[str] = field(default_factory=list)  # what happened in a step and is not yet reported
    shown: Dataset | None = None  # the images, where `dataset` has their latents

    @property
    def preprocess(self) -> Preprocess:
        return model.build_preprocess(self.recipe.input)

    @property
    def images(self) -> Dataset:
        """The data set of images, also where the model trains on latents."""
        return self.shown or self.dataset

    @property
    def evaluation_preprocess(self) -> Transform:
        """The preprocessing of images for evaluation."""
        return self.feed.transform.deterministic()

    @property
    def precision(self) -> Precision:
        return Precision(self.recipe.train.precision, self.world.device.type)

    @property
    def steps(self) -> int:
        return self.recipe.train.steps or 0

    @property
    def selects_best(self) -> bool:
        """Whether the weights of the best evaluation are kept: chosen on a validation part, never on a test part. Of a
        generative model, whose loss does not rank its images, only where early stopping asks for it."""
        wanted = self.recipe.train.patience > 0 or not self.bundle.task.is_generative
        return wanted and bool(self.recipe.train.eval_every) and "val" in self.dataset.splits


def estimate_needs(session: Session) -> str:
    """Memory and disk in words. Errors: `DataError` where the disk has less than the checkpoints need."""
    net, recipe = session.state.model, session.recipe
    weights = sum(p.numel() * p.element_size() for p in net.parameters())
    trained = sum(p.numel() * p.element_size() for p in net.parameters() if p.requires_grad)
    optimizer = STATE_TENSORS.get(recipe.optim.name, 1) * trained
    averages = len(session.state.averages) * weights
    saved = weights + optimizer + averages
    disk = saved * (recipe.runtime.keep_checkpoints + 1) + 2 * weights  # one more while it is written; best and last
    free, place = free_disk(session.folder.path)
    if disk > free:
        what = f"the checkpoints need about {format_bytes(disk)} of disk, and {place} has {format_bytes(free)} free"
        raise DataError(what, "choose another --out, or free the space it needs")
    memory = saved + trained + activations(net, session.feed.micro_batch)
    return (
        f"about {format_bytes(memory)} of memory for weights, optimiser and micro-batches of "
        f"{session.feed.micro_batch}; {format_bytes(disk)} of disk, {format_bytes(free)} are free"
    )


def activations(net: nn.Module, images: int) -> int:
    """Bytes of the activations of so many images; 0 where they cannot be counted."""
    try:
        return cost(net).activation_bytes * images
    except (RuntimeError, NotImplementedError):
        return 0


def free_disk(path: Path) -> tuple[int, Path]:
    """Free bytes where a folder will be, and the folder above it that exists."""
    existing = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    return shutil.disk_usage(existing).free, existing
