"""What a survey knows of one image: its size, its kind, its hash, and the mean and mean square of its channels."""

import contextlib
import hashlib
import threading
from itertools import product
from typing import NamedTuple

import numpy as np

from vitrail.data.dataset import Split, find_reader
from vitrail.data.decode import NAMELESS, count_levels, highest_value, read_header
from vitrail.data.files import EncodedReader
from vitrail.errors import BadImage

LARGE = 16_000_000  # pixels of an image that is decoded alone: several at once could need more memory than there is
CHUNK = 2**17  # values that are summed up at a time
ROWS = 256  # rows of which float32 sums the squares of one column exactly: 256 times 255 squared is below 2**24


class ImageFacts(NamedTuple):
    """Facts on one image. Statistics are of its channels, values in [0, 1]."""

    digest: bytes
    size: tuple[int, int] = (0, 0)
    channels: int = 0
    bits: int = 0
    frames: int = 1
    peak: float | None = None
    mean: np.ndarray | None = None
    square: np.ndarray | None = None
    reason: str = ""


def inspect_array(array: np.ndarray) -> list[ImageFacts]:
    """[N H W C] at once."""
    count, height, width, channels = array.shape
    means, squares = mean_and_square(array)
    rows = [
        (hashlib.sha256(np.ascontiguousarray(array[i]).data).digest(), (height, width), channels, 8, 1)
        for i in range(count)
    ]
    return [ImageFacts(*facts, mean=m, square=s) for facts, m, s in zip(rows, means, squares, strict=True)]


def mean_and_square(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and mean squares [N C] of images [N H W C], values in [0, 1]; sums are exact."""
    count, height, width, channels = array.shape
    sums = np.zeros((2, count, channels))
    columns = max(1, min(width, CHUNK // channels))
    rows = max(1, min(height, ROWS, CHUNK // (columns * channels)))
    step = max(1, CHUNK // (rows * columns * channels))
    for n, left in product(range(0, count, step), range(0, width, columns)):
        block = array[n : n + step, :, left : left + columns]
        each = np.zeros((2, len(block), block.shape[2] * channels))
        for top in range(0, height, rows):
            part = block[:, top : top + rows].astype(np.float32).reshape(len(block), -1, each.shape[2])
            each[0] += part.sum(1)
            each[1] += np.einsum("nrc,nrc->nc", part, part)
        sums[:, n : n + step] += each.reshape(2, len(block), -1, channels).sum(2)
    return sums[0] / (height * width * 255), sums[1] / (height * width * 255**2)


def mean_and_square_of_levels(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Likewise [C] from how often each level is in each channel, int64 [C 256]."""
    levels, pixels = np.arange(256), counts[0].sum()
    return counts @ levels / (pixels * 255), counts @ levels**2 / (pixels * 255**2)


def inspect_image(split: Split, index: int, channels: int, alone: threading.Lock) -> ImageFacts:
    """One image by its reader. A file is read once: header, pixels and hash are of the same bytes."""
    read, at = find_reader(split.read, index)
    if not isinstance(read, EncodedReader):
        try:
            return inspect_array(read(at)[None])[0]
        except BadImage as error:
            return ImageFacts(b"", reason=error.what.removeprefix(f"{split.names[index]} "))
    try:
        data = read.encoded(at)
    except BadImage as error:
        return ImageFacts(b"", reason=error.what.removeprefix(f"{split.names[index]} "))
    except (OSError, ValueError) as error:
        text = error.strerror if isinstance(error, OSError) else None
        return ImageFacts(b"", reason=f"cannot be read: {(text or str(error)).lower()}")
    digest = hashlib.sha256(data).digest()
    try:
        header = read_header(data)
        with alone if header.size[0] * header.size[1] > LARGE else contextlib.nullcontext():
            mean, square = mean_and_square_of_levels(count_levels(data, channels))
            peak = highest_value(data) if header.bits > 8 else None
    except BadImage as error:
        return ImageFacts(digest, reason=error.what.removeprefix(f"{NAMELESS} "))
    return ImageFacts(digest, header.size, header.channels, header.bits, header.frames, peak, mean, square)
