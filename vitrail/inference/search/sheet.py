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

SIDE, GAP, WHITE = 128, 4, 255  # pixels


def write_sheet(out: Path, split: Split, rows: Sequence[Sequence[int]]) -> None:
    """Errors: `UsageError` where it cannot be written."""
    columns = max(map(len, rows))
    sheet = np.full((len(rows) * (SIDE + GAP) - GAP, columns * (SIDE + GAP) - GAP, 3), WHITE, np.uint8)
    for y, own in enumerate(rows):
        for x, number in enumerate(own):
            tile = shrink(to_rgb(split.read(number)))
            top, left = (
                place * (SIDE + GAP) + (SIDE - side) // 2 for place, side in zip((y, x), tile.shape, strict=False)
            )
            sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    try:
        write_file(out, encode_png(sheet))
    except OSError as error:
        what = f"{out} cannot be written: {error.strerror or error}"
        raise UsageError(what, "choose another --out, or free the space it needs") from None


def shrink(pixels: np.ndarray) -> np.ndarray:
    """uint8 [H W 3] -> its longer side is `SIDE`."""
    height, width = pixels.shape[:2]
    scale = SIDE / max(height, width)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    image = resize_image(torch.from_numpy(pixels.transpose(2, 0, 1).copy()), size, "bilinear")
    return np.ascontiguousarray(image.numpy().transpose(1, 2, 0))
