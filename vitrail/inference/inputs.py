"""Images from callers: paths, bytes, files, PIL images, arrays and tensors become uint8 [H W C]."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL.Image import Image
from torch import Tensor

from vitrail.data.decode import decode
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.errors import UsageError

FIX = "give a path, a PIL image, an array [H W C] or a tensor [C H W], or many of them"


@runtime_checkable
class SupportsRead(Protocol):
    """An open file, or what reads like one."""

    def read(self) -> bytes: ...


def as_list(images: Any) -> Sequence[Any]:
    """One image or many -> a list of images."""
    if isinstance(images, Tensor | np.ndarray):
        axes = (3,) if isinstance(images, Tensor) else (2, 3)
        if images.ndim not in (*axes, 4):
            raise UsageError(f"{describe(images)} is not an image", FIX)
        return [images] if images.ndim in axes else list(images)
    if isinstance(images, str | Path | bytes | Image | SupportsRead):
        return [images]
    if isinstance(images, Iterable) and not isinstance(images, dict):
        return list(images)
    raise UsageError(f"{describe(images)} is not an image", FIX)


def read_pixels(item: Any, pre: Preprocess) -> np.ndarray:
    """One image of any of these types -> uint8 [H W C]."""
    if isinstance(item, SupportsRead):
        item = item.read()
    if isinstance(item, str | Path | bytes | Image):
        channels = pre.channels if pre.channels in (1, 3, 4) else 3
        item = decode(Path(item) if isinstance(item, str) else item, channels, background=pre.background)
    if isinstance(item, Tensor) and item.ndim == 3:
        item = (item.float() if item.is_floating_point() else item).detach().cpu().numpy().transpose(1, 2, 0)
    if not isinstance(item, np.ndarray) or item.ndim not in (2, 3):
        raise UsageError(f"{describe(item)} is not an image", FIX)
    have = item.shape[2] if item.ndim == 3 else 1
    if not item.size or have not in {1, 3, 4, pre.channels}:
        reason = "has no pixels" if not item.size else f"would have {have} channels; the model takes {pre.channels}"
        raise UsageError(f"{describe(item)} {reason}", FIX)
    if item.dtype == np.uint8:
        return item if item.flags.writeable else item.copy()  # torch warns of read-only arrays
    if item.dtype == np.uint16:
        return np.rint(item / 257.0).astype(np.uint8)
    if not np.issubdtype(item.dtype, np.floating) or not np.isfinite(item).all() or item.min() < 0 or item.max() > 1:
        raise UsageError(
            f"an array of {item.dtype} from {item.min()} to {item.max()} is not an image",
            "give uint8, or floats in [0, 1]",
        )
    return np.rint(item * 255).astype(np.uint8)


def describe(item: Any) -> str:
    is_array = isinstance(item, Tensor | np.ndarray)
    return f"something of shape {tuple(item.shape)}" if is_array else f"a {type(item).__name__}"
