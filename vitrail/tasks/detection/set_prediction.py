"""Detection as set prediction (DETR, Carion et al. 2020): every object is matched to one query, the others predict "no
object"."""

from dataclasses import fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.heads.detect import Detector, DetectorConfig
from vitrail.heads.unused_parameters import freeze_unused_parameters
from vitrail.tasks.detection.base import Detection
from vitrail.tasks.detection.matching import giou, match_costs, match_queries, to_corners, to_relative
from vitrail.types import Batch, DetectionOutput, DetectionTargets


class SetPrediction(Detection):
    """Loss of `DetectionOutput` against `DetectionTargets`; no two queries are the same object."""

    def assemble(self, trunk: nn.Module) -> Detector:
        design = DetectorConfig(**{f.name: getattr(self.config, f.name) for f in fields(DetectorConfig)})
        detector = Detector(trunk, self.config.classes, design)
        freeze_unused_parameters(trunk, detector.sources)
        return detector

    def count_learning(self, labels: DetectionTargets) -> Tensor:
        """The objects."""
        return (labels.labels >= 0).sum()

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

    def decode(self, output: DetectionOutput, sizes: Tensor) -> Tensor:
        """Every query's likeliest class but "no object" (Carion et al. 2020), without threshold or suppression."""
        score, label = output.logits.float().softmax(-1)[..., :-1].max(-1)  # [B Q]
        scale = sizes.flip(-1).repeat(1, 2)[:, None].to(score)  # width, height, width, height
        rows = torch.cat([to_corners(output.boxes.float()) * scale, score[..., None], label[..., None].float()], dim=-1)
        if torch.compiler.is_exporting():  # ONNX has no stable sort, but its TopK is one
            order = score.topk(score.shape[1], dim=1).indices
        else:
            order = score.argsort(dim=1, descending=True, stable=True)
        return rows.gather(1, order[..., None].expand_as(rows))
