"""What all detectors have in common, whatever their head."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from vitrail.contracts import DenseTask, Metric, Output, Windows
from vitrail.data.dataset import AnnotationKind
from vitrail.data.transforms.joint import JointTransform
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.recipe import Recipe
from vitrail.tasks._defaults.dense import BoxDefaults
from vitrail.tasks._transforms import build_joint
from vitrail.tasks.detection.evaluator import BoxEvaluator
from vitrail.types import DetectionTargets


class Detection(DenseTask):
    """A subclass has a head: how it is assembled, its loss against `DetectionTargets`, and how its output becomes
    boxes."""

    annotations: AnnotationKind = "boxes"
    output: Output = "boxes"
    metric = Metric("mAP")

    def __init__(self, config: Any):
        """config: the `Config` of the task."""
        self.config = config

    @abstractmethod
    def decode(self, output: Any, sizes: Tensor) -> Tensor:
        """The output of the model for images of `sizes` [B 2] (height, width) -> left, top, right, bottom in pixels,
        score, label: float32 [B Q 6], best first; the same Q for every image of a size."""

    @abstractmethod
    def count_learning(self, labels: DetectionTargets) -> Tensor:
        """How much of a batch learns from its objects: what the loss is divided by, a whole number [1]."""

    @final
    def count_targets(
        self, labels: DetectionTargets, batch: int, all_reduce_sum: Callable[[Tensor], Tensor]
    ) -> DetectionTargets:
        """The same objects, with the mean of `count_learning` per image over the global batch, at least one in all, so
        that neither micro-batches nor processes change the loss."""
        count = all_reduce_sum(self.count_learning(labels).float())
        return labels._replace(mean_objects=(count.clamp(min=1) / batch).expand(len(labels.labels)).clone())

    @final
    def output_names(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        return classes

    @final
    def transform(self, recipe: Recipe, preprocess: Preprocess) -> JointTransform:
        return build_joint(recipe, preprocess, "boxes")

    @final
    def defaults(self) -> BoxDefaults:
        return BoxDefaults()

    @final
    def evaluator(self) -> BoxEvaluator:
        return BoxEvaluator(self.config.classes)

    @final
    def targets(self, labels: DetectionTargets) -> DetectionTargets:
        return labels

    @final
    def fit_class_weights(self, labels: Tensor) -> None:
        """The loss has no class weights."""

    @final
    def predict(self, model: nn.Module, images: Tensor) -> Tensor:
        """The boxes of images [B C H W], as from `decode`: [B Q 6]."""
        sizes = torch.tensor([images.shape[-2:]], device=images.device).expand(images.shape[0], 2)
        return self.decode(model(images), sizes)

    @final
    def predict_windows(self, model: nn.Module, images: Tensor, sizes: Tensor) -> Tensor:
        """The boxes of windows, as from `decode`: [B Q 6]."""
        return self.decode(model(images, sizes), sizes).float()

    @final
    def predict_images(self, windows: Windows, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Boxes float32 [n 6] of each: left, top, right, bottom in its pixels, score, class; the best first."""
        return windows.boxes(images, self.nms_iou)
