"""Distillation: a student learns from labels and from a teacher's predictions of the same augmented image.

A model with a token for its teacher (DeiT, Touvron et al. 2020, section 4) has a head for each: the first learns from the labels,
the second from the teacher, and the prediction is the mean of both. Any other model learns from both with one head.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.contracts import Metric, Output, StatelessTask
from vitrail.data.dataset import AnnotationKind
from vitrail.data.transforms.augment import Augmentation
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.errors import UsageError
from vitrail.heads.linear import Classifier
from vitrail.recipe import Recipe
from vitrail.tasks import classification
from vitrail.tasks._defaults.classes import ClassDefaults
from vitrail.types import Batch
from vitrail.validation import Count, Fraction, PositiveFloat, UnitInterval

ANNOTATIONS: AnnotationKind = "classes"


@dataclass(frozen=True)
class Config:
    teacher: str = ""  # a run, a model folder or file, "timm:NAME" or "torchvision:NAME"
    teacher_weights: str = ""  # a weights file for a teacher by name; empty: those of its library
    keep: str = ""  # a folder to cache the teacher's logits in, for this run and others on the same images
    kind: Literal["hard", "soft"] = "hard"  # the teacher's class, or its whole distribution (Hinton et al. 2015)
    temperature: PositiveFloat = 3.0  # of soft distillation
    alpha: UnitInterval = 0.5  # weight of the teacher in the loss; the paper has 0.5 hard, 0.1 soft
    classes: Count = 0  # 0: as many as the data has
    multi_label: bool = False
    loss: Literal["cross_entropy", "bce"] = "cross_entropy"  # of the labels
    smoothing: Fraction = 0.1
    class_weights: Literal["none", "balanced"] = "none"


class Distillation(StatelessTask):
    """As classification, but the targets of training are [B 2K]: the distribution of the labels, then the teacher's logits."""

    annotations: AnnotationKind = ANNOTATIONS
    output: Output = "classes"
    path_keys = ("teacher", "teacher_weights", "keep")

    def __init__(self, config: Config, labels: classification.Classification):
        self.config, self.labels = config, labels
        self.metric: Metric = labels.metric
        self.teacher = config.teacher

    def output_names(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        return classes

    def assemble(self, trunk: nn.Module) -> Classifier:
        return self.labels.assemble(trunk)

    def transform(self, recipe: Recipe, preprocess: Preprocess) -> Augmentation:
        return self.labels.transform(recipe, preprocess)

    def count_targets(self, labels: Tensor, batch: int, all_reduce_sum: Callable[[Tensor], Tensor]) -> Tensor:
        return labels

    def fit_class_weights(self, labels: Tensor) -> None:
        self.labels.fit_class_weights(labels)

    def targets(self, labels: Tensor) -> Tensor:
        """The part of the targets that comes from the labels, [B K]."""
        return self.labels.targets(labels)

    def loss(self, model: Any, batch: Batch) -> dict[str, Tensor]:
        """{"labels": (1 - alpha) times theirs, "teacher": alpha times its}; for integer labels alone, their loss."""
        if not batch.targets.is_floating_point():
            return self.labels.loss(model, batch)
        targets, teacher = batch.targets.chunk(2, dim=1)  # [B K] each
        each = model.forward_all(batch.inputs)  # [B S K]
        labels, distilled = (
            (each[:, 0], each[:, 1]) if model.backbone.has_distillation_token else (each.mean(1), each.mean(1))
        )
        alpha = self.config.alpha
        return {
            "labels": (1 - alpha) * self.labels.label_loss(labels, targets),
            "teacher": alpha * self.teacher_loss(distilled, teacher),
        }

    def teacher_loss(self, logits: Tensor, teacher: Tensor) -> Tensor:
        """Hard: cross-entropy with the teacher's class. Soft: T^2 times the divergence, over images and classes as in DeiT's code."""
        if self.config.kind == "hard":
            return F.cross_entropy(logits, teacher.argmax(1))
        t = self.config.temperature
        theirs, ours = F.log_softmax(teacher / t, dim=1), F.log_softmax(logits / t, dim=1)
        return F.kl_div(ours, theirs, reduction="sum", log_target=True) * t**2 / logits.numel()

    def predict(self, model: nn.Module, images: Tensor) -> Tensor:
        return self.labels.predict(model, images)

    def defaults(self) -> ClassDefaults:
        return self.labels.defaults()

    def evaluator(self) -> classification.ClassEvaluator:
        return self.labels.evaluator()


def build(config: Config) -> Distillation:
    """The task; `config.classes` must be known by now. Errors: `UsageError`."""
    if config.multi_label:
        raise UsageError(
            "distillation is for one class an image, and these images have several", "--task classification"
        )
    base = classification.Config(config.classes, False, config.loss, config.smoothing, config.class_weights)
    return Distillation(config, classification.build(base))
