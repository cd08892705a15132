"""Semantic segmentation: one of K classes for every pixel of an image. Background, where there is one, is an ordinary
class."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.contracts import DenseTask, Evaluator, ImageReader, Metric, Output, Predictions, Windows
from vitrail.data.dataset import IGNORE, AnnotationKind
from vitrail.data.encode import encode_png
from vitrail.data.subset import worst_and_spaced
from vitrail.data.transforms.joint import JointTransform
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.errors import UsageError
from vitrail.heads.segment import HeadConfig, HeadKind, Segmenter
from vitrail.metrics.segmentation import count_pixels, segmentation_metrics
from vitrail.recipe import Recipe
from vitrail.tasks._defaults.dense import MaskDefaults
from vitrail.tasks._transforms import build_joint
from vitrail.types import Batch
from vitrail.validation import Count, Fraction, NonNegative, PositiveFloat

ANNOTATIONS: AnnotationKind = "masks"
DEFAULT_FOR = "backbone"

LEAST = 1e-6  # smallest base of the focal factor: its slope is infinite at 0 for gammas below 1


@dataclass(frozen=True)
class Config:
    classes: Count = 0  # 0: as many as the data has
    multi_label: bool = False  # not supported
    head: HeadKind = "fpn"
    width: Count = 0  # of the head; 0: the published one (256, "upernet" 512, "mask" the backbone's)
    norm: Literal["auto", "group", "batch", "none"] = "auto"  # of the head; published weights of "upernet" need "batch"
    neck: Literal["auto", "simple"] = "auto"  # "simple": ViTDet's pyramid of a plain ViT's last map, under fpn, upernet
    dropout: Fraction = 0.1  # of the head
    dice: NonNegative = 0.0  # weight of the Dice loss beside the cross-entropy
    focal: NonNegative = 0.0  # gamma of the focal loss, which weights pixels by (1 - p)^gamma (Lin et al. 2017)
    class_weights: tuple[PositiveFloat, ...] = ()  # of the pixels of each class in the cross-entropy; empty: 1
    auxiliary: NonNegative = 0.4  # weight of the second head's cross-entropy, for "upernet"; 0: no second head


class Segmentation(DenseTask):
    """Loss of logits [B K H W] against class indices [B H W]; pixels with `IGNORE` are ignored.

    Every term is a mean over images, each of one image alone, so that neither micro-batches nor processes change it.
    Cross-entropy is divided by the number of all pixels, ignored ones included, as in mmseg.
    """

    annotations: AnnotationKind = ANNOTATIONS
    output: Output = "masks"
    metric = Metric("miou")

    def __init__(self, config: Config):
        self.config = config

    def output_names(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        return classes

    def transform(self, recipe: Recipe, preprocess: Preprocess) -> JointTransform:
        return build_joint(recipe, preprocess, "masks")

    def defaults(self) -> MaskDefaults:
        return MaskDefaults()

    def evaluator(self) -> "MaskEvaluator":
        return MaskEvaluator(self.config.classes)

    def assemble(self, trunk: nn.Module) -> Segmenter:
        c = self.config
        second = c.head == "upernet" and c.auxiliary > 0
        return Segmenter(trunk, HeadConfig(c.head, c.classes, c.width, c.norm, c.dropout, second, c.neck))

    def targets(self, labels: Tensor) -> Tensor:
        """Masks uint8 [B H W] as class indices int64."""
        return labels.long()

    def count_targets(self, labels: Tensor, batch: int, all_reduce_sum: Callable[[Tensor], Tensor]) -> Tensor:
        """Every image counts for itself."""
        return labels

    def fit_class_weights(self, labels: Tensor) -> None:
        """The loss has no fitted weights."""

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """{"cross_entropy", "dice" if weighted, "auxiliary" if there is such a head}, each with its weight, in
        float32."""
        logits, second = model.forward_all(batch.inputs)  # type: ignore[operator]
        annotation = batch.targets.long()
        with torch.autocast(logits.device.type, enabled=False):
            terms = {"cross_entropy": self.cross_entropy(logits.float(), annotation)}
            if self.config.dice:
                terms["dice"] = self.config.dice * dice_loss(logits.float(), annotation)
            if second is not None:
                terms["auxiliary"] = self.config.auxiliary * self.cross_entropy(second.float(), annotation)
        return terms

    def cross_entropy(self, logits: Tensor, annotation: Tensor) -> Tensor:
        """With focal factor and class weights, over all pixels; where all are ignored it is 0."""
        pixels = F.cross_entropy(logits, annotation, ignore_index=IGNORE, reduction="none")  # [B H W], 0 where ignored
        if self.config.focal:
            pixels = pixels * (-torch.expm1(-pixels)).clamp_min(LEAST) ** self.config.focal
        if self.config.class_weights:
            weights = logits.new_tensor(self.config.class_weights)
            pixels = pixels * weights[annotation.where(annotation != IGNORE, 0)]
        return pixels.mean()

    def predict(self, model: nn.Module, images: Tensor) -> Tensor:
        """Probabilities [B K H W]."""
        return model(images).float().softmax(1)

    def predict_windows(self, model: nn.Module, images: Tensor, sizes: Tensor) -> Tensor:
        """Logits [B K h w]."""
        logits: Tensor = model(images).float()
        return logits

    def predict_images(self, windows: Windows, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """A label map uint8 [H W] of each."""
        return windows.label_maps(images)


class MaskEvaluator(Evaluator):
    """Evaluates label maps at the images' own sizes: a row has the pixel counts of an image, int64 [3 K]."""

    def __init__(self, classes: int):
        self.classes = classes

    def predictions(self, images: ImageReader) -> Predictions:
        return images.by_image(self.row, torch.zeros(0, 3 * self.classes, dtype=torch.int64), keep_annotations=False)

    def row(self, prediction: np.ndarray, annotation: np.ndarray) -> Tensor:
        """Label maps uint8 [H W] of one image -> its row of counts int64 [3 K], for `metrics`."""
        return count_pixels(
            torch.from_numpy(np.ascontiguousarray(prediction)),
            torch.from_numpy(np.ascontiguousarray(annotation)),
            self.classes,
        )

    def metrics(self, predictions: Predictions) -> Mapping[str, Any]:
        """The rows [N 3K] include the annotations."""
        return segmentation_metrics(predictions.rows)

    def arrays(self, predictions: Predictions) -> dict[str, np.ndarray]:
        return {"rows": predictions.rows.numpy(), "scores": self.scores(predictions.rows).numpy()}

    def files(self, predictions: Predictions, images: ImageReader) -> Mapping[str, bytes]:
        """Label maps of a few images as grey PNG, named after the indices of the images."""
        indices = worst_and_spaced(self.scores(predictions.rows).numpy())
        return {f"{index:08d}.png": encode_png(images.predict(index)) for index in indices}

    def scores(self, rows: Tensor) -> Tensor:
        """The mean IoU of each image over the classes that are annotated or predicted, [N]; 1 where all of it is
        ignored."""
        both, predicted, annotated = rows.double().unflatten(1, (3, -1)).unbind(1)  # [N K] each
        union = predicted + annotated - both
        present = (union > 0).sum(1)
        return torch.where(present > 0, (both / union.clamp_min(1)).sum(1) / present.clamp_min(1), 1.0)


def dice_loss(logits: Tensor, annotation: Tensor) -> Tensor:
    """1 - 2 sum(p t) / (sum(p) + sum(t)) over the pixels of an image, mean over its annotated classes, then over
    images.

    Absent classes have no term; their predicted pixels are missing from those that are present. logits [B K H W], class
    indices [B H W]; an image without annotated pixels gives 0.
    """
    valid = (annotation != IGNORE)[:, None]
    hit = annotation[:, None] == torch.arange(logits.shape[1], device=annotation.device)[:, None, None]  # [B K H W]
    probabilities = logits.softmax(1) * valid
    parts = (probabilities * hit, probabilities, hit)
    both, predicted, annotated = (part.sum((2, 3)) for part in parts)  # [B K]
    present = annotated > 0
    losses = (1 - 2 * both / (predicted + annotated).clamp_min(1)) * present
    return (losses.sum(1) / present.sum(1).clamp_min(1)).mean()


def build(config: Config) -> Segmentation:
    """The task; `config.classes` must be known by now. Errors: `UsageError`."""
    if config.classes < 1:
        raise ValueError("a segmentation needs its number of classes")
    if config.classes == 1 or config.classes > IGNORE:
        raise UsageError(
            f"a segmentation has 2 to {IGNORE} classes, background among them, not {config.classes}", "check the masks"
        )
    if config.multi_label:
        raise UsageError("segmentation.multi_label is not supported: a pixel has one class", "leave it out")
    if config.class_weights and len(config.class_weights) != config.classes:
        raise UsageError(
            f"segmentation.class_weights has {len(config.class_weights)} numbers for {config.classes} classes",
            "one for each, in their order",
        )
    return Segmentation(config)
