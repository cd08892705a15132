"""Detection as set prediction (DETR, Carion et al. 2020): every object is matched to one query, the others predict "no
object"."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.contracts import DenseTask, Evaluator, ImageReader, Metric, Output, Predictions, Windows
from vitrail.data.dataset import AnnotationKind, Boxes
from vitrail.data.transforms.joint import JointTransform
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.heads.detect import Detector, DetectorConfig
from vitrail.heads.unused_parameters import freeze_unused_parameters
from vitrail.metrics.detection import average_precision, f1
from vitrail.recipe import Recipe
from vitrail.tasks._defaults.dense import BoxDefaults
from vitrail.tasks._transforms import build_joint
from vitrail.tasks.detection.matching import giou, match_costs, match_queries, to_corners, to_relative
from vitrail.types import Batch, DetectionOutput, DetectionTargets
from vitrail.validation import Count, Fraction, NonNegative, Positive, UnitInterval

ANNOTATIONS: AnnotationKind = "boxes"
DEFAULT_FOR = "backbone"
MOST = 500  # boxes of an image that are kept, the best
WIDTH = 6  # numbers of a box: its edges, score, label
NO_BOX = -1.0  # padding, where an image has fewer


@dataclass(frozen=True)
class Config:
    """The published DETR is queries 100, kind "slots", encoder 6, decoder 6, width 256, hidden 2048, dropout 0.1,
    stride 32."""

    classes: Count = 0  # 0: as many as the data has
    multi_label: bool = False  # not supported
    queries: Positive = 50  # the most objects in an image
    kind: Literal["anchors", "slots"] = "anchors"  # queries are boxes that are refined, or learned embeddings
    stride: Count = 0  # of the finest map to use, with all coarser ones; 0: the coarsest with 8 cells across
    maps: Literal["all", "last"] = "all"  # of these maps, all, or the last alone, as of a dilated ResNet (DC5)
    neck: Literal["none", "simple"] = "none"  # "simple": a pyramid of a plain ViT's last map (ViTDet)
    width: Positive = 128
    heads: Positive = 8
    encoder: Count = 0  # layers
    decoder: Positive = 3
    hidden: Positive = 512  # width of the feed-forward layers
    dropout: Fraction = 0.0
    class_cost: NonNegative = 1.0  # in matching
    box_cost: NonNegative = 5.0
    giou_cost: NonNegative = 2.0
    box_weight: NonNegative = 5.0  # in the loss; that of the class is 1
    giou_weight: NonNegative = 2.0
    no_object_weight: UnitInterval = 0.1  # weight of unmatched queries in the class loss


class Detection(DenseTask):
    """Loss of `DetectionOutput` against `DetectionTargets`."""

    annotations: AnnotationKind = ANNOTATIONS
    output: Output = "boxes"
    metric = Metric("mAP")

    def __init__(self, config: Config):
        self.config = config

    def output_names(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        return classes

    def transform(self, recipe: Recipe, preprocess: Preprocess) -> JointTransform:
        return build_joint(recipe, preprocess, "boxes")

    def defaults(self) -> BoxDefaults:
        return BoxDefaults()

    def evaluator(self) -> "BoxEvaluator":
        return BoxEvaluator(self.config.classes)

    def assemble(self, trunk: nn.Module) -> Detector:
        design = DetectorConfig(**{f.name: getattr(self.config, f.name) for f in fields(DetectorConfig)})
        detector = Detector(trunk, self.config.classes, design)
        freeze_unused_parameters(trunk, detector.sources)
        return detector

    def targets(self, labels: DetectionTargets) -> DetectionTargets:
        return labels

    def count_targets(
        self, labels: DetectionTargets, batch: int, all_reduce_sum: Callable[[Tensor], Tensor]
    ) -> DetectionTargets:
        """The same objects, with the mean number per image over the global batch, at least one in all, so that the
        number of processes does not change the loss."""
        count = all_reduce_sum((labels.labels >= 0).sum().float())
        return labels._replace(mean_objects=(count.clamp(min=1) / batch).expand(len(labels.labels)).clone())

    def fit_class_weights(self, labels: Tensor) -> None:
        """The loss has no class weights."""

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """{"class", "box", "giou"}, each summed over the layers of the decoder."""
        objects: DetectionTargets = batch.targets
        output = model.forward_all(batch.inputs, objects.sizes)  # type: ignore[operator]
        return {name: term.sum() for name, term in self.terms(output, objects).items()}

    def terms(self, output: DetectionOutput, targets: DetectionTargets) -> dict[str, Tensor]:
        """The weighted terms of every layer [L]. Each layer is matched on its own.

        All are divided by means over the global batch, so that micro-batches weighted by their images add up to its
        loss.
        """
        config, labels = self.config, targets.labels
        boxes, (b, q) = to_relative(targets), output.logits.shape[1:3]
        weights = (config.class_cost, config.box_cost, config.giou_cost)
        chosen = match_queries(match_costs(output, boxes, labels, weights), labels)  # [L B M]
        matched = chosen >= 0
        mean_objects = targets.mean_objects.mean()
        ours = output.boxes.gather(2, chosen.clamp(min=0)[..., None].expand(-1, -1, -1, 4))
        distance = ((ours - boxes).abs().sum(-1) * matched).sum((1, 2))
        overlap = ((1 - giou(to_corners(ours), to_corners(boxes))) * matched).sum((1, 2))
        count = torch.where(mean_objects > 0, mean_objects * b, 1.0)
        some = mean_objects.clamp(max=q)
        weight = b * (some + config.no_object_weight * (q - some))
        return {
            "class": self.class_loss(output.logits, chosen, labels) / weight,
            "box": config.box_weight * distance / count,
            "giou": config.giou_weight * overlap / count,
        }

    def class_loss(self, logits: Tensor, chosen: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of logits [L B Q K+1] with the classes of matched objects, summed over each layer; "no object"
        has less weight: [L]."""
        layers, b, q, k = logits.shape
        annotation = torch.full((layers, b, q + 1), k - 1, device=logits.device)
        where = torch.where(chosen < 0, q, chosen)  # objects without a query go to an extra column
        annotation = annotation.scatter(2, where, labels.clamp(min=0).expand_as(where))[..., :q]
        weight = torch.where(annotation == k - 1, self.config.no_object_weight, 1.0)
        each = F.cross_entropy(logits.flatten(0, 2), annotation.flatten(), reduction="none").view(layers, b, q)
        return (each * weight).sum((1, 2))

    def predict(self, model: nn.Module, images: Tensor) -> Tensor:
        """The boxes of images [B C H W], as from `decode`, in pixels: [B Q 6]."""
        height, width = images.shape[-2:]
        return decode(model(images), torch.tensor([[height, width]], device=images.device).expand(images.shape[0], 2))

    def predict_windows(self, model: nn.Module, images: Tensor, sizes: Tensor) -> Tensor:
        """The boxes of windows, as from `decode`: [B Q 6]."""
        return decode(model(images, sizes), sizes).float()

    def predict_images(self, windows: Windows, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Boxes float32 [n 6] of each: left, top, right, bottom in its pixels, score, class; the best first."""
        return windows.boxes(images)


class BoxEvaluator(Evaluator):
    """Evaluates boxes in the images' own pixels: a row has the best boxes of an image."""

    def __init__(self, classes: int):
        self.classes = classes

    def predictions(self, images: ImageReader) -> Predictions:
        return images.by_image(self.row, torch.zeros(0, MOST * WIDTH), keep_annotations=True)

    def row(self, prediction: Any, annotation: Boxes) -> Tensor:
        """The best `MOST` boxes of an image, [n 6] as from `decode`, flattened: [W]."""
        boxes = torch.as_tensor(prediction, dtype=torch.float32).reshape(-1, WIDTH)
        boxes = boxes[boxes[:, 4].argsort(descending=True, stable=True)[:MOST]]
        return torch.cat([boxes, boxes.new_full((MOST - len(boxes), WIDTH), NO_BOX)]).flatten()

    def metrics(self, predictions: Predictions) -> Mapping[str, Any]:
        return average_precision(list(map(boxes_of_row, predictions.rows)), predictions.annotations, self.classes)

    def arrays(self, predictions: Predictions) -> dict[str, np.ndarray]:
        scores = self.scores(predictions.rows, predictions.annotations)
        return {"rows": predictions.rows.numpy(), "scores": scores.numpy()}

    def files(self, predictions: Predictions, images: ImageReader) -> Mapping[str, bytes]:
        """None: the rows have the boxes."""
        return {}

    def scores(self, rows: Tensor, annotations: Sequence[Boxes]) -> Tensor:
        """F1 of the boxes of each image, [N]."""
        return torch.tensor(
            [f1(boxes_of_row(row).numpy(), annotation) for row, annotation in zip(rows, annotations, strict=True)]
        )


def boxes_of_row(row: Tensor) -> Tensor:
    """The boxes of a row of `BoxEvaluator.row`: [n 6]."""
    boxes = row.reshape(-1, WIDTH)
    return boxes[boxes[:, 4] >= 0]


def decode(output: DetectionOutput, sizes: Tensor) -> Tensor:
    """Output -> left, top, right, bottom in pixels of images of `sizes` [B 2] (height, width), score, label: [B Q 6],
    best first.

    Every query's likeliest class other than "no object" (Carion et al. 2020), without threshold or suppression.
    """
    score, label = output.logits.float().softmax(-1)[..., :-1].max(-1)  # [B Q]
    scale = sizes.flip(-1).repeat(1, 2)[:, None].to(score)  # width, height, width, height
    rows = torch.cat([to_corners(output.boxes.float()) * scale, score[..., None], label[..., None].float()], dim=-1)
    if torch.compiler.is_exporting():  # ONNX has no stable sort, but its TopK is one
        order = score.topk(score.shape[1], dim=1).indices
    else:
        order = score.argsort(dim=1, descending=True, stable=True)
    return rows.gather(1, order[..., None].expand_as(rows))


def build(config: Config) -> Detection:
    """The task; `config.classes` must be known by now."""
    if config.classes < 1:
        raise ValueError("a detection needs its number of classes")
    return Detection(config)
