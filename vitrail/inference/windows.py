"""What a model for masks or boxes says of whole images of any size: resized, cut into windows, and put together again.

An image's windows are as its preprocessing says: one, or several that overlap. Where they overlap, logits are averaged, and boxes that
two windows found are merged.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.assembly.model import ModelBundle, build_preprocess
from vitrail.contracts import Windows
from vitrail.data.annotations.tiles import merge_boxes, touches_border
from vitrail.data.transforms.preprocess import Preprocess, Window
from vitrail.engine.precision import Precision

T = TypeVar("T")
GROUP = 16  # images at a time
VALUES = 2**27  # largest number of logits that are held at a time
LOOKED_AT = 5000  # boxes of all windows that are merged, the surest
MOST = 500  # objects that are told of one image
SAME = 0.5  # overlap (intersection over union) from which on two windows have found the same object


@dataclass(frozen=True)
class WindowedPredictor(Windows):
    """A model for masks or boxes that looks at whole images."""

    model: nn.Module
    preprocess: Preprocess
    precision: Precision
    classes: int

    def label_maps(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [
            most_likely(logits, pixels.shape[:2]) for logits, pixels in zip(self.logits(images), images, strict=True)
        ]

    @torch.no_grad()
    def logits(self, pictures: Sequence[np.ndarray]) -> Iterator[Tensor]:
        """[K h w] for each image, at the size that it was looked at."""
        windows = [self.preprocess.windows(pixels) for pixels in pictures]
        said = iter(
            self.run_windows([w for some in windows for w in some], lambda images, sizes: self.model(images).float())
        )
        for pixels, some in zip(pictures, windows, strict=True):
            yield average_windows(
                ((window, next(said)) for window in some), len(some), self.preprocess.scaled_size(*pixels.shape[:2])
            )

    @torch.no_grad()
    def boxes(self, images: Sequence[np.ndarray], decode: Callable[[Any, Tensor], Tensor]) -> list[np.ndarray]:
        pictures, windows = images, [self.preprocess.windows(pixels) for pixels in images]

        def found_in(batch: Tensor, sizes: Tensor) -> Tensor:  # [B Q 6] in pixels of the canvas
            return decode(self.model(batch, sizes), sizes).float()

        said = iter(self.run_windows([w for some in windows for w in some], found_in))
        results = []
        for pixels, some in zip(pictures, windows, strict=True):
            height, width = self.preprocess.scaled_size(*pixels.shape[:2])
            found = merge_detections([(window, next(said).cpu()) for window in some], (height, width)).numpy()
            found[:, :4] *= np.array([pixels.shape[1] / width, pixels.shape[0] / height] * 2, np.float32)
            found[:, :4] = found[:, :4].clip(0, np.array([pixels.shape[1], pixels.shape[0]] * 2, np.float32))
            results.append(found[np.argsort(-found[:, 4], kind="stable")][:MOST])
        return results

    def run_windows(self, windows: list[Window], say: Callable[[Tensor, Tensor], Tensor]) -> Iterator[Tensor]:
        """What the model says of every window, a few at a time."""
        height, width = self.preprocess.size
        batch = max(1, min(GROUP, VALUES // (self.classes * height * width)))
        device = next(self.model.parameters()).device
        for start in range(0, len(windows), batch):
            some = windows[start : start + batch]
            images = self.preprocess.batch(torch.stack([w.image for w in some]).to(device))
            with self.precision.autocast():
                yield from say(images, torch.tensor([w.size for w in some], device=device))


def most_likely(logits: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Logits [K h w] -> the label map uint8 [H W] at another size, a few classes at a time: those of all would fill the memory."""
    best = torch.full(size, -torch.inf, device=logits.device)
    label = torch.zeros(size, dtype=torch.uint8, device=logits.device)
    some = max(1, VALUES // (size[0] * size[1]))
    for start in range(0, len(logits), some):
        part = logits[None, start : start + some]
        if tuple(part.shape[2:]) != tuple(size):
            part = F.interpolate(part, size, mode="bilinear", align_corners=False)
        value, place = part[0].max(0)
        label = torch.where(value > best, (place + start).to(torch.uint8), label)
        best = best.maximum(value)
    return label.cpu().numpy()


def average_windows(probabilities: Iterator[tuple[Window, Tensor]], count: int, size: tuple[int, int]) -> Tensor:
    """Logits [K h w] of `count` windows -> those of the whole resized image, [K H W]; padding is left out."""
    window, logits = next(probabilities)
    if count == 1:
        return logits[:, : size[0], : size[1]]
    total = torch.zeros(logits.shape[0], *size, device=logits.device)
    times = torch.zeros(size, device=total.device)
    for part, seen in chain([(window, logits)], probabilities):
        height, width = part.size
        here = (slice(part.top, part.top + height), slice(part.left, part.left + width))
        total[:, *here] += seen[:, :height, :width]
        times[here] += 1
    return total / times


def merge_detections(detections: list[tuple[Window, Tensor]], size: tuple[int, int]) -> Tensor:
    """Boxes [n 6] of windows -> those of the whole resized image, each object once: a whole box rather than one that a window cut."""
    if len(detections) == 1:
        return detections[0][1]
    boxes, cut = [], []
    for window, found in detections:
        moved = found + torch.tensor([window.left, window.top] * 2 + [0, 0])
        place = (window.left, window.top, window.left + window.size[1], window.top + window.size[0])
        boxes.append(moved)
        cut.append(touches_border(moved, place, size))
    every = torch.cat(boxes)
    best = every[:, 4].argsort(descending=True, stable=True)[
        :LOOKED_AT
    ]  # a query is never silent: most say next to nothing
    every, parts = every[best], torch.cat(cut)[best]
    return every[merge_boxes(every[:, :4], every[:, 4], every[:, 5], SAME, parts)]


def read_ahead(read: Callable[[Any], T], items: Sequence[Any]) -> Iterator[T]:
    """What `read` makes of each item, in order; the next one is read while this one is used."""
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
    """What looks at whole images."""
    return WindowedPredictor(bundle.model, build_preprocess(bundle.recipe.input), precision, len(bundle.classes))
