"""Images that were found, side by side in one PNG: a row each search."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from vitrail.data.dataset import Split
from vitrail.data.encode import encode_png, to_rgb
from vitrail.data.transforms.resize import resize_image
from vitrail.errors import UsageError
from vitrail.storage.atomic import write_file

SIDE, GAP, WHITE = 128, 4, 255  # longest side of a tile and what is between two, pixels; the value of the rest


def write_sheet(out: Path, split: Split, rows: Sequence[Sequence[int]]) -> None:
    """Errors: `UsageError` where it cannot be written."""
    tiles = [[shrink(to_rgb(split.read(number))) for number in own] for own in rows]
    side = max(max(tile.shape) for own in tiles for tile in own)
    step = side + GAP
    sheet = np.full((len(rows) * step - GAP, max(map(len, rows)) * step - GAP, 3), WHITE, np.uint8)
    for y, own in enumerate(tiles):
        for x, tile in enumerate(own):
            height, width = tile.shape[:2]
            top, left = y * step + (side - height) // 2, x * step + (side - width) // 2
            sheet[top : top + height, left : left + width] = tile
    try:
        write_file(out, encode_png(sheet))
    except OSError as error:
        what = f"{out} cannot be written: {error.strerror or error}"
        raise UsageError(what, "choose another --out, or free the space it needs") from None


def shrink(pixels: np.ndarray) -> np.ndarray:
    """uint8 [H W 3] -> its longer side is at most `SIDE`."""
    height, width = pixels.shape[:2]
    if max(height, width) <= SIDE:
        return pixels
    scale = SIDE / max(height, width)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    image = resize_image(torch.from_numpy(pixels.transpose(2, 0, 1).copy()), size, "bilinear")
    return np.ascontiguousarray(image.numpy().transpose(1, 2, 0))
