"""MixUp (Zhang et al. 2017) and CutMix (Yun et al. 2019) over neighbours in the batch.

Pairs are positions (0, 1), (2, 3), ... of the global batch, whose order is random already. torchvision's own mixing pairs
each image with the one before it all around the batch, so a pair would cross processes; here it never does, and any number
of processes mixes the same images by the same amounts.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vitrail.types import Batch


@dataclass(frozen=True)
class Mixing:
    """How images are mixed. mixup, cutmix: alpha of the Beta distribution that the share lambda is drawn from; 0: off."""

    mixup: float = 0.0
    cutmix: float = 0.0
    prob: float = 1.0  # probability that a pair is mixed at all
    cutmix_prob: float = 0.5  # share of CutMix where both are on
    mode: Literal["pair", "batch"] = "pair"  # what has a chance of its own

    @property
    def is_on(self) -> bool:
        return bool(self.mixup or self.cutmix)


class MixDraw(NamedTuple):
    """What happens to each pair.

    cut:    bool [P], whether to cut (else blend).
    keep:   [P], the share lambda that each image keeps of itself; 1 where a pair is left alone.
    places: [P 2] in [0, 1), the centre of the box that is cut.
    """

    cut: np.ndarray
    keep: np.ndarray
    places: np.ndarray

    def part(self, pairs: slice) -> "MixDraw":
        return MixDraw(self.cut[pairs], self.keep[pairs], self.places[pairs])


def draw_mixing(seed: int, step: int, pairs: int, mixing: Mixing) -> MixDraw:
    """For all pairs of the global batch of a step: a function of (seed, step) alone."""
    key = np.array([(seed + (1 << 32)) % (1 << 64), step], np.uint64)
    generator = np.random.Generator(np.random.Philox(key=key))
    count = pairs if mixing.mode == "pair" else 1
    done, kind = generator.random(count) < mixing.prob, generator.random(count)
    cut = kind < (mixing.cutmix_prob if mixing.mixup and mixing.cutmix else float(mixing.cutmix > 0))
    keep = np.ones(count)
    for alpha, which in ((mixing.mixup, ~cut), (mixing.cutmix, cut)):
        if alpha:
            keep = np.where(done & which, generator.beta(alpha, alpha, count), keep)
    drawn = MixDraw(cut, keep, generator.random((count, 2)))
    return drawn if count == pairs else MixDraw(*(np.repeat(part, pairs, axis=0) for part in drawn))


def mix_batch(batch: Batch, draw: MixDraw) -> Batch:
    """Images [B C H W] and soft targets [B K], each mixed with its neighbour's."""
    images, targets = batch
    rows, columns = cutmix_boxes(draw.keep, draw.places, images.shape[2], images.shape[3])
    kept = np.where(draw.cut, 1.0 - rows.mean(1) * columns.mean(1), draw.keep)  # what a cut really kept
    share = torch.from_numpy(kept.repeat(2)).to(images)
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
    """Position 0 and 1 change places, 2 and 3, and so on."""
    return x.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)


def cutmix_boxes(keep: np.ndarray, places: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A box of area 1 - lambda around a random centre, cut off at the border: its rows, bool [P H], and its columns, bool [P W]."""
    side = np.sqrt(1.0 - keep)
    spans = []
    for axis, whole in ((0, height), (1, width)):
        centre, half = (places[:, axis] * whole).astype(int), (side * whole).astype(int) // 2
        index = np.arange(whole)[None]
        spans.append((index >= (centre - half)[:, None]) & (index < (centre + half)[:, None]))
    return spans[0], spans[1]
