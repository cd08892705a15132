"""Distillation: a student learns from labels and from what a teacher says of the same augmented image.

A model with a token for its teacher (DeiT, Touvron et al. 2020, section 4) has a head for each: the first listens to the labels,
the second to the teacher, and the prediction is the mean of both. Any other model listens to both with its one answer.
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
    teacher: str = ""  # a run, a model folder or file of ours, "timm:NAME" or "torchvision:NAME"
    teacher_weights: str = ""  # a file for a teacher by name; else the weights that its library brings
    keep: str = ""  # a folder where the teacher's answers are kept, for this run and others that show the same images
    kind: Literal["hard", "soft"] = (
        "hard"  # the class that the teacher names, or its whole distribution (Hinton et al. 2015)
    )
    temperature: PositiveFloat = 3.0  # of soft distillation
    alpha: UnitInterval = 0.5  # the teacher's share of the loss; the paper has 0.5 hard, 0.1 soft
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
        """{"labels": (1 - alpha) times theirs, "teacher": alpha times its}; of integer labels alone, their loss."""
        if not batch.targets.is_floating_point():
            return self.labels.loss(model, batch)
        targets, said = batch.targets.chunk(2, dim=1)  # [B K] each
        each = model.forward_all(batch.inputs)  # [B S K]
        own, heard = (each[:, 0], each[:, 1]) if model.backbone.has_distillation_token else (each.mean(1), each.mean(1))
        alpha = self.config.alpha
        return {
            "labels": (1 - alpha) * self.labels.label_loss(own, targets),
            "teacher": alpha * self.label_loss(heard, said),
        }

    def label_loss(self, logits: Tensor, said: Tensor) -> Tensor:
        """Hard: cross-entropy with the teacher's class. Soft: T^2 times the divergence, over images and classes as in DeiT's code."""
        if self.config.kind == "hard":
            return F.cross_entropy(logits, said.argmax(1))
        t = self.config.temperature
        theirs, ours = F.log_softmax(said / t, dim=1), F.log_softmax(logits / t, dim=1)
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
        raise UsageError("a teacher names one class an image, and these images have several", "--task classification")
    base = classification.Config(config.classes, False, config.loss, config.smoothing, config.class_weights)
    return Distillation(config, classification.build(base))
