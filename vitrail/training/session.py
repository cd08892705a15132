"""A run that can be trained: its parts, all that the training loop needs."""

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from vitrail.assembly import model
from vitrail.assembly.run_directory import RunFolder
from vitrail.data.dataset import Dataset, Split
from vitrail.data.transforms.base import Transform
from vitrail.data.transforms.features import FeatureTransform
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.engine.freeze import UnfreezeStage
from vitrail.engine.precision import Precision
from vitrail.engine.processes.choice import ONE_PROCESS, ParallelChoice
from vitrail.engine.processes.world import World
from vitrail.engine.state import State
from vitrail.heads.linear import FeatureClassifier
from vitrail.recipe import Change, Recipe
from vitrail.training.feed import Feed
from vitrail.weights.report import LoadReport


@dataclass(frozen=True)
class CachedFeatures:
    """Features of a frozen backbone that stand for images in training and in the evaluations during a run. model: the
    head on features, with the parameters of the session's model."""

    splits: dict[str, Split]
    transform: FeatureTransform
    model: FeatureClassifier

    def classifier(self, model: Any) -> FeatureClassifier:
        """The same of other weights, such as averaged ones."""
        return FeatureClassifier(model)


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
    features: CachedFeatures | None = None  # where the head alone learns, and nothing random stands before it
    parallel: ParallelChoice = ONE_PROCESS  # how the model is divided among processes
    blank: nn.Module | None = None  # the model without its weights, where it is divided
    saving: tuple[int, ...] = ()  # the steps of the best evaluations in checkpoints that are being written

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
        task whose metric does not rank weights only where early stopping asks for it."""
        wanted = self.recipe.train.patience > 0 or self.bundle.task.selects_best
        return wanted and bool(self.recipe.train.eval_every) and "val" in self.dataset.splits
