"""Masks or boxes of whole images of any size: resized, predicted in windows, and merged.

The preprocessing sets the windows of an image: one, or several that overlap. Where they overlap, logits are averaged
and duplicate boxes are merged.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vitrail.assembly.model import ModelBundle, build_preprocess
from vitrail.contracts import DenseTask, Windows
from vitrail.data.annotations.tiles import merge_boxes, touches_border
from vitrail.data.transforms.preprocess import Preprocess, Window
from vitrail.engine.precision import Precision

T = TypeVar("T")
GROUP = 16  # images at a time
VALUES = 2**27  # largest number of logits in memory at a time
CANDIDATES = 5000  # boxes of all windows to merge, the most confident
MOST = 500  # objects of one image
SAME = 0.5  # IoU from which on boxes of two windows are the same object, where no two of one window are


@dataclass(frozen=True)
class WindowedPredictor(Windows):
    """A model for masks or boxes of whole images, applied in windows.

    predict: uint8 windows [B C h w] and their sizes without padding [B 2] -> logits [B K h w], or boxes [B Q 6] in
    pixels of the window.
    """

    predict: Callable[[Tensor, Tensor], Tensor]
    preprocess: Preprocess
    classes: int

    def label_maps(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [
            most_likely(logits, pixels.shape[:2]) for logits, pixels in zip(self.logits(images), images, strict=True)
        ]

    @torch.no_grad()
    def logits(self, images: Sequence[np.ndarray]) -> Iterator[Tensor]:
        """[K h w] for each image, at the resized size."""
        windows = [self.preprocess.windows(pixels) for pixels in images]
        predictions = iter(self.run_windows([w for some in windows for w in some]))
        for pixels, some in zip(images, windows, strict=True):
            yield average_windows(
                ((window, next(predictions)) for window in some),
                len(some),
                self.preprocess.scaled_size(*pixels.shape[:2]),
            )

    @torch.no_grad()
    def boxes(self, images: Sequence[np.ndarray], nms_iou: float | None = None) -> list[np.ndarray]:
        windows = [self.preprocess.windows(pixels) for pixels in images]
        predictions = iter(self.run_windows([w for some in windows for w in some]))
        results = []
        for pixels, some in zip(images, windows, strict=True):
            height, width = self.preprocess.scaled_size(*pixels.shape[:2])
            parts = [(window, next(predictions).cpu()) for window in some]
            boxes = merge_detections(parts, (height, width), nms_iou).numpy()
            boxes[:, :4] *= np.array([pixels.shape[1] / width, pixels.shape[0] / height] * 2, np.float32)
            boxes[:, :4] = boxes[:, :4].clip(0, np.array([pixels.shape[1], pixels.shape[0]] * 2, np.float32))
            results.append(boxes[np.argsort(-boxes[:, 4], kind="stable")][:MOST])
        return results

    def run_windows(self, windows: list[Window]) -> Iterator[Tensor]:
        """The prediction of every window, in batches."""
        height, width = self.preprocess.size
        batch = max(1, min(GROUP, VALUES // (self.classes * height * width)))
        for start in range(0, len(windows), batch):
            some = windows[start : start + batch]
            yield from self.predict(torch.stack([w.image for w in some]), torch.tensor([w.size for w in some]))


def most_likely(logits: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Logits [K h w] -> the label map uint8 [H W] at another size, a few classes at a time to save memory."""
    best = torch.full(size, -torch.inf, device=logits.device)
    label = torch.zeros(size, dtype=torch.uint8, device=logits.device)
    some = max(1, VALUES // (size[0] * size[1]))
    for start in range(0, len(logits), some):
        part = logits[None, start : start + some]
        if tuple(part.shape[2:]) != tuple(size):
            part = F.interpolate(part, size, mode="bilinear", align_corners=False)
        if part.device.type == "cpu":
            keep_largest(best.numpy(), label.numpy(), part[0].float().numpy(), start)
            continue
        value, index = part[0].max(0)
        label = torch.where(value > best, (index + start).to(torch.uint8), label)
        best = best.maximum(value)
    return label.cpu().numpy()


def keep_largest(best: np.ndarray, label: np.ndarray, logits: np.ndarray, first: int) -> None:
    """Writes into `best` and `label` [H W] where a class of logits [K H W], numbered from `first`, is above `best`. In
    a tenth of the time of `torch.max` over the first axis; equal ones leave the label of the first, as there."""
    above = np.empty(best.shape, bool)
    number = above.view(np.uint8)
    for i, values in enumerate(logits, first):
        np.greater(values, best, out=above)
        np.multiply(number, np.uint8(i), out=number)
        np.maximum(label, number, out=label)  # classes come in order, so a later one is the larger number
        np.maximum(best, values, out=best)


def average_windows(probabilities: Iterator[tuple[Window, Tensor]], count: int, size: tuple[int, int]) -> Tensor:
    """Logits [K h w] of `count` windows -> those of the whole resized image, [K H W]; without padding."""
    window, logits = next(probabilities)
    if count == 1:
        return logits[:, : size[0], : size[1]]
    total = torch.zeros(logits.shape[0], *size, device=logits.device)
    times = torch.zeros(size, device=total.device)
    for part, values in chain([(window, logits)], probabilities):
        height, width = part.size
        here = (slice(part.top, part.top + height), slice(part.left, part.left + width))
        total[:, *here] += values[:, :height, :width]
        times[here] += 1
    return total / times


def merge_detections(
    detections: list[tuple[Window, Tensor]], size: tuple[int, int], nms_iou: float | None = None
) -> Tensor:
    """Boxes [n 6] of windows -> those of the whole resized image, each object once: whole boxes are preferred to those
    cut by a window. nms_iou: above which two boxes are the same object, also of one window; None: of two alone."""
    if len(detections) == 1 and nms_iou is None:
        return detections[0][1]
    boxes, cut = [], []
    for window, rows in detections:
        moved = rows + torch.tensor([window.left, window.top] * 2 + [0, 0])
        extent = (window.left, window.top, window.left + window.size[1], window.top + window.size[0])
        boxes.append(moved)
        cut.append(touches_border(moved, extent, size))
    every = torch.cat(boxes)
    best = every[:, 4].argsort(descending=True, stable=True)[:CANDIDATES]  # every query is a box, most with low scores
    every, parts = every[best], torch.cat(cut)[best]
    return every[merge_boxes(every[:, :4], every[:, 4], every[:, 5], nms_iou or SAME, parts)]


def read_ahead(read: Callable[[Any], T], items: Sequence[Any]) -> Iterator[T]:
    """`read(item)` of each item, in order; the next one is read while this one is used."""
    if not items:
        return
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(read, items[0])
        for following in items[1:]:
            value = waiting.result()
            waiting = pool.submit(read, following)
            yield value
        yield waiting.result()


def windowed(bundle: ModelBundle, precision: Precision) -> WindowedPredictor:
    """A predictor of whole images."""
    pre, task, device = build_preprocess(bundle.recipe.input), bundle.task, next(bundle.model.parameters()).device
    assert isinstance(task, DenseTask)

    def predict(images: Tensor, sizes: Tensor) -> Tensor:
        with precision.autocast():
            return task.predict_windows(bundle.model, pre.batch(images.to(device)), sizes.to(device))

    return WindowedPredictor(predict, pre, len(bundle.classes))
