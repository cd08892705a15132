"""The few shapes of thing that cross floors. What a model returns are named tuples, so torch's pytrees see through them."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

Grid = tuple[int, int]  # (height, width) in cells, or (down, across)


class Features(NamedTuple):
    """What a backbone makes of a batch of images."""

    summaries: tuple[Tensor, ...]  # one or more vectors per image, each [B D]
    maps: tuple[Tensor, ...]  # one or more feature maps, each [B C H W], fine to coarse


class Groups(ABC):
    """How the cells of a map are parted into sequences, each of which attends within itself. They stand beside each other in the batch."""

    @abstractmethod
    def index(self, grid: Grid) -> Tensor:
        """The cell that stands at each place of each sequence, in raster order of the map; -1 for padding: [g n]."""


class TokenLayout(NamedTuple):
    """Which token of a sequence stands where on the image: `leading` tokens without a place (class, distillation, registers), the cells of
    `grid` in raster order, `trailing` tokens without a place.

    A family hands it to its blocks and attentions beside the tokens; a block that is handed none works on maps [B D h w]. Sequences that
    are joined (several maps, several images in one row) have one layout each, in a tuple.
    """

    grid: Grid  # (0, 0): no token has a place
    stride: tuple[float, float]  # height and width of a cell in pixels of the image
    leading: int = 0
    summaries: int = (
        0  # how many of the leading tokens, the first of them, are read out as summaries; 0: the cells' mean is
    )
    trailing: int = 0
    kept: Tensor | None = None  # [B n] the cells that are there, where an image has lost the others; None: all of them
    groups: Groups | None = None  # None: all tokens attend to each other

    @property
    def cells(self) -> int:
        return self.grid[0] * self.grid[1] if self.kept is None else self.kept.shape[1]

    @property
    def tokens(self) -> int:
        return self.leading + self.cells + self.trailing


def unplaced_tokens(count: int) -> TokenLayout:
    """Tokens of which none has a place, such as the queries of a decoder."""
    return TokenLayout((0, 0), (0.0, 0.0), count)


class Batch(NamedTuple):
    """Images on their way into a model, [B C H W] floats, and what is to be said of them."""

    inputs: Tensor
    targets: Any


class DetectionTargets(NamedTuple):
    """What is to be found in the images of a batch, padded to the most that any of them has."""

    boxes: Tensor  # [B M 4] left, top, right, bottom in pixels of the batch's canvas
    labels: Tensor  # [B M] class indices, -1 where there is no object
    sizes: Tensor  # [B 2] height and width of the image, which lies at the top left of the canvas; the rest is padding
    mean_objects: (
        Tensor  # [B] objects per image, the mean over the whole batch of all processes: what losses are divided by
    )


def each_tensor(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """A tensor changed, or a named tuple with every one of its tensors changed."""
    return change(value) if isinstance(value, Tensor) else type(value)(*map(change, value))


class DetectionOutput(NamedTuple):
    """What a detector says of a batch of images, by query."""

    logits: Tensor  # [B Q K+1], the last for "nothing"
    boxes: Tensor  # [B Q 4] centre x, centre y, width, height as shares of the image, its padding left out
