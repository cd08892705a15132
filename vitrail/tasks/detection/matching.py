"""Bipartite matching of queries and objects, and its costs."""

import torch
from torch import Tensor

from vitrail.types import DetectionOutput, DetectionTargets

SMALLEST = 1e-12  # area to divide by: boxes without extent must not make a loss infinite


def to_corners(boxes: Tensor) -> Tensor:
    """[... 4] centre x, centre y, width, height -> left, top, right, bottom."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def to_relative(targets: DetectionTargets) -> Tensor:
    """The boxes of objects [B M 4] as centre x, centre y, width, height as fractions of their images."""
    scale = targets.sizes.flip(-1).repeat(1, 2)[:, None].to(targets.boxes)  # [B 1 4]
    first, last = (targets.boxes / scale).split(2, dim=-1)
    return torch.cat([(first + last) / 2, last - first], dim=-1)


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised overlap of boxes left, top, right, bottom [... 4], shapes broadcast: in (-1, 1] (Rezatofighi et al. 2019).

    torchvision has it too, but takes seconds to import.
    """
    shared = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(-1).clamp(min=SMALLEST)
    union = ((a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - shared).clamp(min=SMALLEST)
    return shared / union - (hull - union) / hull


@torch.no_grad()
def match_costs(output: DetectionOutput, boxes: Tensor, labels: Tensor, weights: tuple[float, float, float]) -> Tensor:
    """The cost of matching each query to each object: output [... B Q], objects [B M] -> [... B Q M].

    weights: of the class (minus the probability of the right one), of the distance of boxes, of their overlap; DETR has 1, 5, 2.
    """
    probabilities = output.logits.softmax(-1)
    which = labels.clamp(min=0)[:, None].expand(*probabilities.shape[:-1], -1)
    kind = -probabilities.gather(-1, which)
    ours, theirs = output.boxes[..., :, None, :], boxes[:, None]
    away = (ours - theirs).abs().sum(-1)
    return weights[0] * kind + weights[1] * away - weights[2] * giou(to_corners(ours), to_corners(theirs))


def match_queries(cost: Tensor, labels: Tensor) -> Tensor:
    """The assignment of least cost, image by image: costs [... B Q M] -> the query of each object, [... B M] int64,
    -1 where there is none: at padding (label -1), and where there are more objects than queries. Each query is used once."""
    from scipy.optimize import linear_sum_assignment

    counts = (labels >= 0).sum(1).tolist()
    most = torch.finfo(torch.float32).max
    table = cost.float().nan_to_num(most, most, -most).cpu()  # a non-finite loss is reported later
    chosen = torch.full((*table.shape[:-2], table.shape[-1]), -1, dtype=torch.int64)
    for flat, to in (
        zip(table.flatten(0, -4), chosen.flatten(0, -3), strict=True) if table.ndim > 3 else [(table, chosen)]
    ):
        for one, row, n in zip(flat.numpy(), to, counts, strict=True):
            queries, objects = linear_sum_assignment(one[:, :n])
            row[torch.from_numpy(objects)] = torch.from_numpy(queries)
    return chosen.to(cost.device)
