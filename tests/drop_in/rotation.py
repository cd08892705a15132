"""Rotation: how far an image is turned, a task without labels (Gidaris et al. 2018, arxiv.org/abs/1803.07728)."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.contracts import Defaults, Evaluator, ImageReader, Metric, Output, Predictions, StatelessTask
from vitrail.data.dataset import AnnotationKind
from vitrail.data.transforms.augment import Augmentation
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.errors import UsageError
from vitrail.facts import Choices
from vitrail.heads.linear import Classifier
from vitrail.metrics.classification import single_label
from vitrail.recipe import Recipe
from vitrail.tasks._defaults.classes import ClassDefaults
from vitrail.tasks._transforms import build_augmentation
from vitrail.types import Batch
from vitrail.validation import Fraction

ANNOTATIONS: AnnotationKind = "none"
TURNS = ("0", "90", "180", "270")  # degrees, against the clock


@dataclass(frozen=True)
class Config:
    smoothing: Fraction = 0.0  # share of the target spread over all turns


class Rotation(StatelessTask):
    """Cross-entropy of logits [B 4] against the quarter turns that the images were given."""

    annotations: AnnotationKind = ANNOTATIONS
    output: Output = "classes"

    def __init__(self, config: Config):
        self.config = config
        self.chance_loss = math.log(len(TURNS))
        self.metric = Metric("top1")

    def output_names(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        return TURNS

    def assemble(self, trunk: nn.Module) -> Classifier:
        return Classifier(trunk, len(TURNS))

    def transform(self, recipe: Recipe, preprocess: Preprocess) -> Augmentation:
        return build_augmentation(recipe, preprocess)

    def targets(self, labels: Tensor) -> Tensor:
        """Nothing [B 0]: the labels are not looked at."""
        return torch.zeros(len(labels), 0, device=labels.device)

    def count_targets(self, labels: Tensor, batch: int, all_reduce_sum: Callable[[Tensor], Tensor]) -> Tensor:
        return labels

    def fit_class_weights(self, labels: Tensor) -> None:
        """Every turn is equally frequent."""

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        turns = torch.randint(len(TURNS), (len(batch.inputs),), device=batch.inputs.device)
        logits = model(turn_images(batch.inputs, turns))
        return {"rotation": F.cross_entropy(logits, turns, label_smoothing=self.config.smoothing)}

    def predict(self, model: nn.Module, images: Tensor) -> Tensor:
        """Probabilities [B 4]."""
        return model(images).float().softmax(-1)

    def defaults(self) -> "RotationDefaults":
        return RotationDefaults(ClassDefaults())

    def evaluator(self) -> "RotationEvaluator":
        return RotationEvaluator(self)


def turn_images(images: Tensor, turns: Tensor) -> Tensor:
    """Square images [B C S S], each by its number of quarter turns [B]."""
    turned = torch.stack([images.rot90(k, (2, 3)) for k in range(len(TURNS))])
    return turned[turns, torch.arange(len(images), device=images.device)]


class RotationEvaluator(Evaluator):
    """The i-th image of a split is turned i times by a quarter."""

    def __init__(self, task: Rotation):
        self.task = task

    def predictions(self, images: ImageReader) -> Predictions:
        found = images.by_batch(self.row, len(TURNS))
        return Predictions(found.rows, torch.arange(len(found.rows)) % len(TURNS))

    def row(self, model: nn.Module, images: Tensor, labels: Tensor, ids: np.ndarray) -> Tensor:
        turns = torch.from_numpy(ids % len(TURNS)).to(images.device)
        return self.task.predict(model, turn_images(images, turns))

    def metrics(self, predictions: Predictions) -> Mapping[str, Any]:
        return single_label(predictions.rows, predictions.targets)

    def arrays(self, predictions: Predictions) -> dict[str, np.ndarray]:
        """Not "probabilities", which would be those of images that nobody has turned."""
        return {"turned": predictions.rows.numpy().astype(np.float32), "turns": predictions.targets.numpy()}

    def files(self, predictions: Predictions, images: ImageReader) -> Mapping[str, bytes]:
        return {}


class RotationDefaults(Defaults):
    """Those of classification, of square images."""

    def __init__(self, usual: ClassDefaults):
        self.usual, self.max_epochs = usual, usual.max_epochs

    def choose_input(self, c: Choices) -> None:
        tall, wide = c.facts.size
        if tall != wide:
            side = min(max(tall, wide), 224 if c.facts.gpu else 96)
            c.set_default("input", "size", [side, side], "only a square can be turned")
        self.usual.choose_input(c)

    def choose_model(self, c: Choices) -> None:
        self.usual.choose_model(c)

    def choose_optimizer(self, c: Choices) -> None:
        self.usual.choose_optimizer(c)

    def choose_augmentation(self, c: Choices) -> None:
        self.usual.choose_augmentation(c)

    def images_shown(self, gpu: bool) -> int:
        return self.usual.images_shown(gpu)

    def peak_lr(self, recipe: Recipe, model_config: Any) -> float:
        return self.usual.peak_lr(recipe, model_config)

    def check(self, recipe: Recipe) -> None:
        self.usual.check(recipe)
        assert recipe.input.size is not None
        tall, wide = recipe.input.size
        if tall != wide:
            raise UsageError(f"input.size is {tall}x{wide}, and only a square can be turned", f"--img-size {wide}")


def build(config: Config) -> Rotation:
    """The task."""
    return Rotation(config)
