"""Classification: one of K classes (cross-entropy), or any of K (binary cross-entropy), with soft targets where images
are mixed."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.contracts import Evaluator, ImageReader, Metric, Output, Predictions, StatelessTask
from vitrail.data.dataset import AnnotationKind
from vitrail.data.transforms.augment import Augmentation
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.heads.linear import Classifier
from vitrail.metrics.classification import multi_label, single_label
from vitrail.recipe import Recipe
from vitrail.tasks._defaults.classes import ClassDefaults
from vitrail.tasks._transforms import build_augmentation
from vitrail.types import Batch
from vitrail.validation import Count, Fraction

ANNOTATIONS: AnnotationKind = "classes"
DEFAULT_FOR = "backbone"


@dataclass(frozen=True)
class Config:
    classes: Count = 0  # 0: as many as the data has
    multi_label: bool = False  # an image may have any number of the classes
    loss: Literal["cross_entropy", "bce"] = "cross_entropy"  # "bce": binary, each class on its own (DeiT III)
    smoothing: Fraction = 0.1  # label smoothing
    class_weights: Literal["none", "balanced"] = "none"  # "balanced": by inverse class frequency


class Classification(StatelessTask):
    """Loss of logits [B K] against class indices [B], soft targets [B K] or multi-hot labels [B K]."""

    annotations: AnnotationKind = ANNOTATIONS
    output: Output = "classes"
    takes_features = True

    def __init__(self, config: Config):
        self.config = config
        self.weights: Tensor | None = None  # of the classes [K], mean 1 over the training images
        self.multi_label = config.multi_label
        self.chance_loss = None if config.multi_label or config.loss == "bce" else math.log(config.classes)
        self.metric = Metric("mAP" if config.multi_label else "top1")

    def output_names(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        return classes

    def assemble(self, trunk: nn.Module) -> Classifier:
        return Classifier(trunk, self.config.classes)

    def transform(self, recipe: Recipe, preprocess: Preprocess) -> Augmentation:
        return build_augmentation(recipe, preprocess)

    def count_targets(self, labels: Tensor, batch: int, all_reduce_sum: Callable[[Tensor], Tensor]) -> Tensor:
        """Every image counts for itself."""
        return labels

    def targets(self, labels: Tensor) -> Tensor:
        """Labels as a distribution over classes, float [B K], smoothed: what mixing and the loss work on."""
        hard = labels.float() if labels.ndim == 2 else F.one_hot(labels, self.config.classes).float()
        s = self.config.smoothing
        if self.config.multi_label:
            return hard * (1 - s) + s / 2
        return hard * (1 - s) + s / self.config.classes

    def fit_class_weights(self, labels: Tensor) -> None:
        """Class indices [N] or multi-hot labels [N K] of the training part, for "balanced" weights."""
        if self.config.class_weights == "balanced":
            counts = labels.sum(0) if labels.ndim == 2 else labels.bincount(minlength=self.config.classes)
            self.weights = counts.sum() / (len(counts) * counts.clamp(min=1).float())

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        targets = batch.targets if batch.targets.is_floating_point() else self.targets(batch.targets)
        kind = "bce" if self.config.multi_label or self.config.loss == "bce" else "cross_entropy"
        return {kind: self.label_loss(model(batch.inputs), targets)}

    def label_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of logits [B K] against soft targets [B K]. Class weights multiply the terms of their class."""
        weights = None if self.weights is None else self.weights.to(logits)
        if self.config.multi_label or self.config.loss == "bce":
            return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights)
        return F.cross_entropy(logits, targets, weight=weights)

    def predict(self, model: nn.Module, images: Tensor) -> Tensor:
        """Probabilities [B K]."""
        logits = model(images).float()
        return logits.sigmoid() if self.config.multi_label else logits.softmax(-1)

    def defaults(self) -> ClassDefaults:
        return ClassDefaults()

    def evaluator(self) -> "ClassEvaluator":
        return ClassEvaluator(self, self.config.classes, self.config.multi_label)


class ClassEvaluator(Evaluator):
    """Of a task whose `predict` gives probabilities [B K]."""

    def __init__(self, task: StatelessTask, classes: int, multi_label: bool):
        self.task, self.classes, self.multi_label = task, classes, multi_label

    def predictions(self, images: ImageReader) -> Predictions:
        return images.by_batch(self.row, self.classes)

    def row(self, model: nn.Module, images: Tensor, labels: Tensor, ids: np.ndarray) -> Tensor:
        return self.task.predict(model, images)

    def metrics(self, predictions: Predictions) -> Mapping[str, Any]:
        return (multi_label if self.multi_label else single_label)(predictions.rows, predictions.targets)

    def arrays(self, predictions: Predictions) -> dict[str, np.ndarray]:
        return {"probabilities": predictions.rows.numpy().astype(np.float32), "targets": predictions.targets.numpy()}

    def files(self, predictions: Predictions, images: ImageReader) -> Mapping[str, bytes]:
        """None: the arrays are complete."""
        return {}


def build(config: Config) -> Classification:
    """The task; `config.classes` must be known by now."""
    if config.classes < 1:
        raise ValueError("a classification needs its number of classes")
    return Classification(config)
