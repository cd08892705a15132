"""Classification: one of K classes (cross-entropy), or any of K (binary cross-entropy), with soft targets where pictures are mixed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.checks import Count, Fraction
from vitrail.heads.linear import Classifier
from vitrail.metrics.classification import multi_label, single_label
from vitrail.types import Batch


@dataclass(frozen=True)
class Config:
    classes: Count = 0  # 0: as many as the data has
    multi_label: bool = False  # a picture may have any number of the classes
    loss: Literal["cross_entropy", "bce"] = "cross_entropy"  # "bce": each class on its own (DeiT III, ResNet strikes back)
    smoothing: Fraction = 0.1  # share of the target spread over all classes
    class_weights: Literal["none", "balanced"] = "none"  # "balanced": a class counts for more the rarer it is in training


class Classification:
    """Loss and judgement of logits [B K] against class indices [B], soft targets [B K] or multi-hot labels [B K]."""

    truth = "classes"

    def __init__(self, config: Config):
        self.config = config
        self.weights: Tensor | None = None  # of the classes [K], mean 1 over the training pictures
        self.higher_is_better = "mAP" if config.multi_label else "top1"

    def assemble(self, backbone: nn.Module) -> Classifier:
        return Classifier(backbone, self.config.classes)

    def targets(self, labels: Tensor) -> Tensor:
        """Labels as a distribution over classes, float [B K], smoothed: what mixing and the loss work on."""
        hard = labels.float() if labels.ndim == 2 else F.one_hot(labels, self.config.classes).float()
        s = self.config.smoothing
        if self.config.multi_label:
            return hard * (1 - s) + s / 2
        return hard * (1 - s) + s / self.config.classes

    def weigh(self, labels: Tensor) -> None:
        """Class indices [N] or multi-hot labels [N K] of the training part, of which "balanced" weights are made."""
        if self.config.class_weights == "balanced":
            counts = labels.sum(0) if labels.ndim == 2 else labels.bincount(minlength=self.config.classes)
            self.weights = counts.sum() / (len(counts) * counts.clamp(min=1).float())

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        targets = batch.targets if batch.targets.is_floating_point() else self.targets(batch.targets)
        kind = "bce" if self.config.multi_label or self.config.loss == "bce" else "cross_entropy"
        return {kind: self.distance(model(batch.inputs), targets)}

    def distance(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of logits [B K] against soft targets [B K]. A weight multiplies what its class has a part in."""
        weights = None if self.weights is None else self.weights.to(logits)
        if self.config.multi_label or self.config.loss == "bce":
            return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights)
        return F.cross_entropy(logits, targets, weight=weights)

    def predict(self, model: nn.Module, images: Tensor) -> Tensor:
        """Probabilities [B K]."""
        logits = model(images).float()
        return logits.sigmoid() if self.config.multi_label else logits.softmax(-1)

    def metrics(self, predictions: Tensor, targets: Tensor) -> Mapping[str, Any]:
        return (multi_label if self.config.multi_label else single_label)(predictions, targets)


def build(config: Config) -> Classification:
    """The task; `config.classes` must be known by now."""
    if config.classes < 1:
        raise ValueError("a classification needs its number of classes")
    return Classification(config)
