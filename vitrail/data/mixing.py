"""MixUp (Zhang et al. 2017) and CutMix (Yun et al. 2019) over neighbours in the batch.

Pairs are positions (0, 1), (2, 3), ... of the global batch, whose order is random already. torchvision's own mixing pairs
each picture with the one before it all around the batch, so a pair would cross processes; here it never does, and any number
of processes mixes the same pictures by the same amounts.
"""

import numpy as np
import torch
from torch import Tensor

from vitrail.types import Batch


def draw(seed: int, step: int, pairs: int, mixup: float, cutmix: float) -> tuple[bool, np.ndarray, np.ndarray]:
    """For the batch of a step: whether to cut (else blend), the share lambda that each pair keeps [P], and places in [0,1) [P 2]."""
    key = np.array([(seed + (1 << 32)) % (1 << 64), step], np.uint64)
    generator = np.random.Generator(np.random.Philox(key=key))
    cut = bool(cutmix) and (not mixup or generator.random() < 0.5)
    alpha = cutmix if cut else mixup
    return cut, generator.beta(alpha, alpha, pairs), generator.random((pairs, 2))


def mix(batch: Batch, cut: bool, keep: np.ndarray, places: np.ndarray) -> Batch:
    """Images [B C H W] and soft targets [B K], each mixed with its neighbour's."""
    images, targets = batch
    if cut:
        inside = boxes(keep, places, images.shape[2], images.shape[3])  # [P H W]
        keep = 1.0 - inside.mean((1, 2))  # the share that was really kept
        mask = torch.from_numpy(inside.repeat(2, axis=0)).to(images.device)[:, None]
        images = torch.where(mask, neighbours(images), images)
    share = torch.from_numpy(keep.repeat(2)).to(images)
    if not cut:
        lam = share[:, None, None, None]
        images = lam * images + (1 - lam) * neighbours(images)
    return Batch(images, share[:, None] * targets + (1 - share[:, None]) * neighbours(targets))


def neighbours(x: Tensor) -> Tensor:
    """Position 0 and 1 change places, 2 and 3, and so on."""
    return x.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)


def boxes(keep: np.ndarray, places: np.ndarray, height: int, width: int) -> np.ndarray:
    """bool [P H W]: a box of area 1 - lambda around a random centre, cut off at the border."""
    side = np.sqrt(1.0 - keep)
    masks = []
    for axis, whole in ((0, height), (1, width)):
        centre, half = (places[:, axis] * whole).astype(int), (side * whole).astype(int) // 2
        index = np.arange(whole)[None]
        masks.append((index >= (centre - half)[:, None]) & (index < (centre + half)[:, None]))
    return masks[0][:, :, None] & masks[1][:, None, :]
