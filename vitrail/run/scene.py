"""What a model for masks or boxes says of whole pictures of any size: resized, cut into windows, and put together again.

A picture's windows are as its preprocessing says: one, or several that overlap. Where they overlap, logits are averaged, and boxes that
two windows found are merged.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.data.preprocess import Preprocess, Window
from vitrail.data.tiles import merge, touching
from vitrail.engine.precision import Precision

T = TypeVar("T")
GROUP = 16  # pictures at a time
VALUES = 2**27  # largest number of logits that are held at a time
MOST = 300  # objects that are told of one picture
SAME = 0.5  # overlap (intersection over union) from which on two windows have found the same object


class Viewer(NamedTuple):
    """A model that looks at whole pictures. `truth`: "masks" or "boxes"."""

    model: nn.Module
    task: Any
    preprocess: Preprocess
    precision: Precision
    classes: int

    def said(self, pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
        """uint8 [H W C] each -> a label map uint8 [H W] each, or found boxes float32 [n 6] each: left, top, right, bottom in the picture's
        pixels, score, class; the best first."""
        if self.task.truth == "masks":
            return [probabilities.argmax(0).to(torch.uint8).cpu().numpy() for probabilities in self.shares(pictures)]
        return self.boxes(pictures)

    @torch.no_grad()
    def shares(self, pictures: Sequence[np.ndarray]) -> Iterator[Tensor]:
        """Probabilities of the classes, [K H W] for each picture at its own size."""
        windows = [self.preprocess.windows(pixels) for pixels in pictures]
        said = iter(self.each([w for some in windows for w in some], lambda images, sizes: self.model(images).float()))
        for pixels, some in zip(pictures, windows, strict=True):
            height, width = self.preprocess.scaled(*pixels.shape[:2])
            whole = averaged([(window, next(said)) for window in some], (height, width))
            yield F.interpolate(whole[None], pixels.shape[:2], mode="bilinear", align_corners=False)[0].softmax(0)

    @torch.no_grad()
    def boxes(self, pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
        windows = [self.preprocess.windows(pixels) for pixels in pictures]
        said = iter(self.each([w for some in windows for w in some], self.found))
        results = []
        for pixels, some in zip(pictures, windows, strict=True):
            height, width = self.preprocess.scaled(*pixels.shape[:2])
            found = merged([(window, next(said).cpu()) for window in some], (height, width)).numpy()
            found[:, :4] *= np.array([pixels.shape[1] / width, pixels.shape[0] / height] * 2, np.float32)
            found[:, :4] = found[:, :4].clip(0, np.array([pixels.shape[1], pixels.shape[0]] * 2, np.float32))
            results.append(found[np.argsort(-found[:, 4], kind="stable")][:MOST])
        return results

    def found(self, images: Tensor, sizes: Tensor) -> Tensor:
        """[B Q 6] in pixels of the canvas."""
        said: Tensor = self.task.decode(self.model(images, sizes), sizes)
        return said.float()

    def each(self, windows: list[Window], say: Callable[[Tensor, Tensor], Tensor]) -> Iterator[Tensor]:
        """What the model says of every window, a few at a time."""
        height, width = self.preprocess.size
        batch = max(1, min(GROUP, VALUES // (self.classes * height * width)))
        device = next(self.model.parameters()).device
        for start in range(0, len(windows), batch):
            some = windows[start : start + batch]
            images = self.preprocess.batch(torch.stack([w.picture for w in some]).to(device))
            with self.precision.autocast():
                yield from say(images, torch.tensor([w.size for w in some], device=device))


def averaged(said: list[tuple[Window, Tensor]], size: tuple[int, int]) -> Tensor:
    """Logits [K h w] of windows -> those of the whole resized picture, [K H W]; padding is left out."""
    if len(said) == 1:
        return said[0][1][:, : size[0], : size[1]]
    total = torch.zeros(said[0][1].shape[0], *size, device=said[0][1].device)
    times = torch.zeros(size, device=total.device)
    for window, logits in said:
        height, width = window.size
        here = (slice(window.top, window.top + height), slice(window.left, window.left + width))
        total[:, *here] += logits[:, :height, :width]
        times[here] += 1
    return total / times


def merged(said: list[tuple[Window, Tensor]], size: tuple[int, int]) -> Tensor:
    """Boxes [n 6] of windows -> those of the whole resized picture, each object once: a whole box rather than one that a window cut."""
    if len(said) == 1:
        return said[0][1]
    boxes, cut = [], []
    for window, found in said:
        moved = found + torch.tensor([window.left, window.top] * 2 + [0, 0])
        place = (window.left, window.top, window.left + window.size[1], window.top + window.size[0])
        boxes.append(moved)
        cut.append(touching(moved, place, size))
    every = torch.cat(boxes)
    return every[merge(every[:, :4], every[:, 4], every[:, 5], SAME, torch.cat(cut))]


def ahead(read: Callable[[Any], T], items: Sequence[Any]) -> Iterator[T]:
    """What `read` makes of each item, in order; the next one is read while this one is used."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(read, items[0]) if items else None
        for following in [*items[1:], None]:
            assert waiting is not None
            value = waiting.result()
            waiting = pool.submit(read, following) if following is not None else None
            yield value
            if waiting is None:
                return
