"""The few shapes of thing that cross floors. What a model returns are named tuples, so torch's pytrees see through them."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor


class Features(NamedTuple):
    """What a backbone makes of a batch of images."""

    summaries: tuple[Tensor, ...]  # one or more vectors per image, each [B D]
    maps: tuple[Tensor, ...]  # one or more feature maps, each [B C H W], fine to coarse


class Batch(NamedTuple):
    """Images on their way into a model, [B C H W] floats, and what is to be said of them."""

    inputs: Tensor
    targets: Any


class Objects(NamedTuple):
    """What is to be found in the pictures of a batch, padded to the most that any of them has."""

    boxes: Tensor  # [B M 4] left, top, right, bottom in pixels of the batch's canvas
    labels: Tensor  # [B M] class indices, -1 where there is no object
    sizes: Tensor  # [B 2] height and width of the picture, which lies at the top left of the canvas; the rest is padding
    usual: Tensor  # [B] objects per picture, the mean over the whole batch of all processes: what losses are divided by


def each_tensor(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """A tensor changed, or a named tuple with every one of its tensors changed."""
    return change(value) if isinstance(value, Tensor) else type(value)(*map(change, value))


class Found(NamedTuple):
    """What a detector says of a batch of pictures, by query."""

    logits: Tensor  # [B Q K+1], the last for "nothing"
    boxes: Tensor  # [B Q 4] centre x, centre y, width, height as shares of the picture, its padding left out
