"""Progressive resolution: training starts on small images and ends at full size (Tan and Le 2021, section 4)."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

STAGES = 5


@dataclass(frozen=True)
class ProgressiveResize:
    """Sizes are (height, width) in pixels: from `start` in five equal stages to `full`, reached at training step
    `until`.

    stride: sides are rounded to multiples of it, at least one and at most `full`, so sizes may coincide.
    """

    start: tuple[int, int]
    full: tuple[int, int]
    until: int
    stride: int

    def size_at(self, step: int) -> tuple[int, int]:
        """The size of images at a training step."""
        return self.stage(step * STAGES // self.until if step < self.until else STAGES)

    def stage(self, done: int) -> tuple[int, int]:
        """The size after `done` of the five stages."""
        if done == STAGES:
            return self.full
        sides = (a + (b - a) * done / STAGES for a, b in zip(self.start, self.full, strict=True))
        height, width = (max(1, round(side / self.stride)) * self.stride for side in sides)
        return min(height, self.full[0]), min(width, self.full[1])

    @property
    def all_sizes(self) -> list[tuple[int, int]]:
        """All sizes, each once, smallest first."""
        return list(dict.fromkeys(self.stage(done) for done in range(STAGES + 1)))

    def resize_batch(self, images: Tensor, step: int) -> Tensor:
        """float [B C H W] -> [B C h w], resized on their device, bilinear with antialiasing."""
        size = self.size_at(step)
        return (
            images if size == tuple(images.shape[2:]) else F.interpolate(images, size, mode="bilinear", antialias=True)
        )
