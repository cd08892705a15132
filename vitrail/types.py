"""The few types that cross rooms. Models return named tuples, so that torch's pytrees work on them."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

Grid = tuple[int, int]  # (height, width) in cells, or (down, across)


def is_free(*sides: int) -> bool:
    """Whether one of some sizes is left open by the program that is traced: nothing may depend on its value then, or
    the program holds for the sizes of its example alone, and ONNX files do not even say so."""
    return any(isinstance(side, torch.SymInt) for side in sides)


class Features(NamedTuple):
    """The output of a backbone for a batch of images."""

    summaries: tuple[Tensor, ...]  # one or more vectors per image, each [B D]
    maps: tuple[Tensor, ...]  # one or more feature maps, each [B C H W], fine to coarse


class Groups(ABC):
    """How the cells of a map are divided into sequences, each of which attends within itself; they are stacked in the
    batch."""

    @abstractmethod
    def index(self, grid: Grid) -> Tensor:
        """The cell at each position of each sequence, in raster order of the map; -1 for padding: [g n]."""


class MergedGroups(NamedTuple):
    """Cells that became one token: `tokens` int64 [B N], the token of each cell, counted behind the leading ones; and
    `sizes` float [B n], the number of cells of each token."""

    tokens: Tensor
    sizes: Tensor


class TokenLayout(NamedTuple):
    """The positions of tokens on the image: `leading` tokens without a position (class, distillation, registers), the
    cells of `grid` in raster order, `trailing` tokens without a position.

    A family passes it to its blocks and attentions beside the tokens; a block without one works on maps [B D h w].
    Sequences that are joined (several maps, several images in one row) have one layout each, in a tuple.
    """

    grid: Grid  # (0, 0): no token has a position
    stride: tuple[float, float]  # height and width of a cell in pixels of the image
    leading: int = 0
    summaries: int = 0  # how many of the first leading tokens are the summaries; 0: the mean of the cells is
    trailing: int = 0
    kept: Tensor | None = None  # [B n] the cells that are present, where others are dropped; None: all of them
    groups: Groups | None = None  # None: all tokens attend to each other
    merged: MergedGroups | None = None  # of the cells that are present; None: each has a token of its own

    @property
    def cells(self) -> int:
        """How many tokens stand for cells."""
        if self.merged is not None:
            return self.merged.sizes.shape[1]
        return self.grid[0] * self.grid[1] if self.kept is None else self.kept.shape[1]

    @property
    def tokens(self) -> int:
        return self.leading + self.cells + self.trailing


def unplaced_tokens(count: int) -> TokenLayout:
    """Tokens without positions, such as the queries of a decoder."""
    return TokenLayout((0, 0), (0.0, 0.0), count)


class Views(NamedTuple):
    """Several crops of each image of a batch, all of one size and smaller ones: there may be none of these."""

    global_crops: Tensor  # [B G C H W]
    local_crops: Tensor  # [B L C h w]


class Batch(NamedTuple):
    """Images as the model takes them, [B C H W] floats, or `Views` of them; and their targets."""

    inputs: Any
    targets: Any


class DetectionTargets(NamedTuple):
    """The objects of a batch of images, padded to the most that any of them has."""

    boxes: Tensor  # [B M 4] left, top, right, bottom in pixels of the batch's canvas
    labels: Tensor  # [B M] class indices, -1 where there is no object
    sizes: Tensor  # [B 2] height and width of the image at the top left of the canvas; the rest is padding
    mean_objects: Tensor  # [B] objects, or cells that learn from one, per image of the global batch: divides losses


def each_tensor(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """`change` applied to a tensor, or to every tensor of a named tuple."""
    return change(value) if isinstance(value, Tensor) else type(value)(*map(change, value))


class DetectionOutput(NamedTuple):
    """The predictions of a detector for a batch of images, by query."""

    logits: Tensor  # [B Q K+1], the last for "no object"
    boxes: Tensor  # [B Q 4] centre x, centre y, width, height as fractions of the image without padding

    def class_scores(self) -> Tensor:
        """Logits of the classes alone, [B Q K]."""
        return self.logits[..., :-1]


class CellOutput(NamedTuple):
    """The predictions of a detector for a batch of images, by cell of its levels, fine to coarse."""

    logits: Tensor  # [B N K], of each class on its own
    reach: Tensor  # [B N 4] distances from the centre to the left, top, right and bottom edge, in strides
    centerness: Tensor  # [B N] logit of how near the centre is to the middle of the box
    centers: Tensor  # [N 2] x, y in pixels
    strides: Tensor  # [N] pixels

    def class_scores(self) -> Tensor:
        """Logits of the classes, [B N K]."""
        return self.logits
