"""MixUp (Zhang et al. 2017) and CutMix (Yun et al. 2019) over neighbours in the batch.

Pairs are positions (0, 1), (2, 3), ... of the global batch, whose order is random already. torchvision pairs each image
with the one before it, all around the batch, so pairs would cross ranks; here they never do, and any number of ranks
mixes the same images with the same lambda.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vitrail.types import Batch


@dataclass(frozen=True)
class Mixing:
    """Settings of mixing. mixup, cutmix: alpha of the Beta distribution of lambda; 0: off."""

    mixup: float = 0.0
    cutmix: float = 0.0
    prob: float = 1.0  # probability that a pair is mixed at all
    cutmix_prob: float = 0.5  # probability of CutMix if both are on
    mode: Literal["pair", "batch"] = "pair"  # what is sampled independently

    @property
    def is_on(self) -> bool:
        return bool(self.mixup or self.cutmix)


class MixDraw(NamedTuple):
    """The sampled mixing of each pair.

    cut:    bool [P]: CutMix, else MixUp.
    keep:   [P]: lambda, the share of an image itself; 1 for a pair that is not mixed.
    places: [P 2] in [0, 1): the centre of the CutMix box.
    """

    cut: np.ndarray
    keep: np.ndarray
    places: np.ndarray

    def part(self, pairs: slice) -> "MixDraw":
        return MixDraw(self.cut[pairs], self.keep[pairs], self.places[pairs])


def draw_mixing(seed: int, step: int, pairs: int, mixing: Mixing) -> MixDraw:
    """Samples the mixing of all pairs of the global batch: a function of (seed, step) only."""
    key = np.array([(seed + (1 << 32)) % (1 << 64), step], np.uint64)
    generator = np.random.Generator(np.random.Philox(key=key))
    count = pairs if mixing.mode == "pair" else 1
    is_mixed, kind = generator.random(count) < mixing.prob, generator.random(count)
    cut = kind < (mixing.cutmix_prob if mixing.mixup and mixing.cutmix else float(mixing.cutmix > 0))
    keep = np.ones(count)
    for alpha, pairs_of_kind in ((mixing.mixup, ~cut), (mixing.cutmix, cut)):
        if alpha:
            keep = np.where(is_mixed & pairs_of_kind, generator.beta(alpha, alpha, count), keep)
    sampled = MixDraw(cut, keep, generator.random((count, 2)))
    return sampled if count == pairs else MixDraw(*(np.repeat(part, pairs, axis=0) for part in sampled))


def mix_batch(batch: Batch, draw: MixDraw) -> Batch:
    """Images [B C H W] and soft targets [B K], each mixed with its neighbour's."""
    images, targets = batch
    rows, columns = cutmix_boxes(draw.keep, draw.places, images.shape[2], images.shape[3])
    lambdas = np.where(draw.cut, 1.0 - rows.mean(1) * columns.mean(1), draw.keep)  # lambda of the clipped box
    share = torch.from_numpy(lambdas.repeat(2)).to(images)
    other = neighbours(images)
    mixed = images
    if not draw.cut.all():
        lam = torch.from_numpy(np.where(draw.cut, 1.0, draw.keep).repeat(2)).to(images)[:, None, None, None]
        mixed = torch.lerp(other, images, lam)
    if draw.cut.any():
        down, right = (
            torch.from_numpy((side & draw.cut[:, None]).repeat(2, axis=0)).to(images.device) for side in (rows, columns)
        )
        mixed = torch.where(down[:, None, :, None] & right[:, None, None, :], other, mixed)
    return Batch(mixed, share[:, None] * targets + (1 - share[:, None]) * neighbours(targets))


def neighbours(x: Tensor) -> Tensor:
    """Swaps positions 0 and 1, 2 and 3, and so on."""
    return x.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)


def cutmix_boxes(keep: np.ndarray, places: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A box of area 1 - lambda around a random centre, clipped at the border: rows, bool [P H], and columns, bool [P
    W]."""
    side = np.sqrt(1.0 - keep)
    spans = []
    for axis, whole in ((0, height), (1, width)):
        centre, half = (places[:, axis] * whole).astype(int), (side * whole).astype(int) // 2
        index = np.arange(whole)[None]
        spans.append((index >= (centre - half)[:, None]) & (index < (centre + half)[:, None]))
    return spans[0], spans[1]
