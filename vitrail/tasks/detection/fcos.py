"""Detection in one stage (FCOS, Tian et al. 2019): every cell near the middle of an object learns its class, its edges
and how near it is to the middle."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.heads.fcos import CellDetector, FcosConfig, cell_centers
from vitrail.heads.unused_parameters import freeze_unused_parameters
from vitrail.tasks.detection.base import Detection
from vitrail.tasks.detection.matching import giou
from vitrail.types import Batch, CellOutput, DetectionTargets

LEAST, MOST = 4, 8  # strides: the longest distance to an edge for which a level is there (torchvision's ranges)
ALPHA, GAMMA = 0.25, 2.0  # of the focal loss, as published


class CellDetection(Detection):
    """Loss of `CellOutput` against `DetectionTargets`: sums over cells, divided by the cells that learn from an object,
    as torchvision has it."""

    def __init__(self, config: Any):
        super().__init__(config)
        self.nms_iou = config.nms_iou
        self.strides: tuple[float, ...] = ()  # of the levels of the model that was assembled

    def assemble(self, trunk: nn.Module) -> CellDetector:
        c = self.config
        detector = CellDetector(trunk, c.classes, FcosConfig(c.width, c.convs, c.stride, c.neck))
        freeze_unused_parameters(trunk, detector.sources)
        self.strides = detector.strides
        return detector

    def count_learning(self, labels: DetectionTargets) -> Tensor:
        """The cells that learn from an object."""
        height, width = labels.sizes.amax(0).tolist()  # no box, and so no such cell, is beyond
        levels = [cell_centers((math.ceil(height / s), math.ceil(width / s)), s) for s in self.strides]
        strides = torch.cat([torch.full((len(c),), float(s)) for c, s in zip(levels, self.strides, strict=True)])
        return (assign_cells(torch.cat(levels), strides, labels, self.config.radius) >= 0).sum()

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """{"class", "giou", "centerness"}."""
        objects: DetectionTargets = batch.targets
        return self.terms(model(batch.inputs, objects.sizes), objects)

    def terms(self, output: CellOutput, targets: DetectionTargets) -> dict[str, Tensor]:
        """Focal loss of all cells; of those with an object, generalised IoU and the entropy of the centerness."""
        chosen = assign_cells(output.centers, output.strides, targets, self.config.radius)  # [B N]
        matched, index = chosen >= 0, chosen.clamp(min=0)
        count = targets.mean_objects.mean() * len(chosen)
        label = targets.labels.gather(1, index)
        wanted = F.one_hot(label.clamp(min=0), output.logits.shape[-1]) * matched[..., None]
        boxes = targets.boxes.gather(1, index[..., None].expand(-1, -1, 4))
        boxes = torch.where(matched[..., None], boxes, output.centers.repeat(1, 2))  # any that is finite
        overlap = (1 - giou(cell_boxes(output), boxes)) * matched
        middle = F.binary_cross_entropy_with_logits(
            output.centerness, centerness_of(output.centers, boxes), reduction="none"
        )
        return {
            "class": focal_loss(output.logits, wanted.to(output.logits)).sum() / count,
            "giou": overlap.sum() / count,
            "centerness": (middle * matched).sum() / count,
        }

    def decode(self, output: CellOutput, sizes: Tensor) -> Tensor:
        """The candidates of best score, before suppression: the root of the product of class and centerness. A cell may
        be a candidate for several classes."""
        classes = output.logits.shape[-1]
        extent = sizes.flip(-1)[:, None].to(output.centers)  # [B 1 2]: width, height
        inside = (output.centers < extent).all(-1)  # cells of the padding answer for nothing
        score = (output.logits.sigmoid() * output.centerness.sigmoid()[..., None]).sqrt() * inside[..., None]
        best, place = score.flatten(1).topk(min(self.config.candidates, score.shape[1] * classes))
        cell = place // classes
        boxes = cell_boxes(output).gather(1, cell[..., None].expand(-1, -1, 4))
        boxes = torch.minimum(boxes.clamp(min=0), extent.repeat(1, 1, 2))
        return torch.cat([boxes, best[..., None], (place - cell * classes)[..., None].to(best)], dim=-1)


def cell_boxes(output: CellOutput) -> Tensor:
    """The boxes of all cells: left, top, right, bottom in pixels [B N 4]."""
    reach = output.reach * output.strides[:, None]
    return torch.cat([output.centers - reach[..., :2], output.centers + reach[..., 2:]], dim=-1)


@torch.no_grad()
def assign_cells(centers: Tensor, strides: Tensor, targets: DetectionTargets, radius: float) -> Tensor:
    """The object that each cell learns from, [B N], -1 for none: centres [N 2] and strides [N] of the cells of all
    levels, fine to coarse.

    A centre lies in the box and within `radius` cells of its middle, and the box's farthest edge in the range of the
    level; of several objects the smallest. As `torchvision.models.detection.fcos`.
    """
    boxes = targets.boxes[:, None]  # [B 1 M 4]
    point = centers[:, None]  # [N 1 2]
    edges = torch.cat([point - boxes[..., :2], boxes[..., 2:] - point], dim=-1)  # [B N M 4]
    least = torch.where(strides == strides.min(), 0.0, strides * LEAST)[:, None]
    most = torch.where(strides == strides.max(), torch.inf, strides * MOST)[:, None]
    middle = (boxes[..., :2] + boxes[..., 2:]) / 2
    near = (point - middle).abs().amax(-1) < radius * strides[:, None]
    farthest = edges.amax(-1)
    fits = near & (edges.amin(-1) > 0) & (farthest > least) & (farthest < most) & (targets.labels >= 0)[:, None]
    if not targets.labels.shape[1]:
        return fits.new_full(fits.shape[:2], -1, dtype=torch.int64)
    area = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    smallest, index = torch.where(fits, area, torch.inf).min(-1)
    return torch.where(smallest.isfinite(), index, -1)


def centerness_of(centers: Tensor, boxes: Tensor) -> Tensor:
    """How near centres [N 2] are to the middle of their boxes [B N 4]: 1 there, 0 at an edge (Tian et al. 2019,
    equation 3)."""
    edges = torch.stack([centers - boxes[..., :2], boxes[..., 2:] - centers], dim=-1).clamp(min=0)  # [B N 2 2]
    shares = edges.amin(-1) / edges.amax(-1).clamp(min=torch.finfo(edges.dtype).tiny)
    return shares.prod(-1).sqrt()


def focal_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """The focal loss of every logit, for targets 0 or 1 (Lin et al. 2017). torchvision has it too, but takes seconds to
    import."""
    entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    p = logits.sigmoid()
    missing = p + wanted - 2 * p * wanted  # 1 - the probability of the right answer
    return (1 - ALPHA + (2 * ALPHA - 1) * wanted) * entropy * missing**GAMMA
