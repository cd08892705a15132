"""Which patches of an image a trained model merges."""

from typing import NamedTuple

import numpy as np

from vitrail.analysis.merging import find_groups, paint_groups
from vitrail.analysis.overlay import compute_extent, find_visible_area
from vitrail.data.encode import to_rgb
from vitrail.errors import many
from vitrail.evaluation.look import prepare_images, spaced_layers, whole_image
from vitrail.inference.predictor import Predictor


class MergedImage(NamedTuple):
    """panels: title and uint8 [H W 3] of the image and of some blocks; groups: of all blocks, int64 [h w] each, see
    `BlockGroups`; patches and tokens: before the first block and after the last."""

    panels: tuple[tuple[str, np.ndarray], ...]
    groups: dict[str, np.ndarray]
    patches: int
    tokens: int


def find_merged(predictor: Predictor, image: np.ndarray) -> MergedImage:
    """The groups of an image uint8 [H W C], painted after a few blocks, the last among them. Errors: `UsageError` for a
    model that merges no tokens."""
    pre = whole_image(predictor.preprocess)
    blocks = find_groups(predictor.model, prepare_images(predictor, [image]))
    grid = (blocks[0].groups.shape[1], blocks[0].groups.shape[2])
    area, covers = find_visible_area(pre, *image.shape[:2]), compute_extent(predictor.model, pre.size, grid)
    panels = [(many(grid[0] * grid[1], "patch", "patches"), to_rgb(image))]
    for number in spaced_layers(len(blocks)):
        title = f"after block {number + 1}: {many(blocks[number].tokens, 'token')}"
        panels.append((title, paint_groups(image, blocks[number].groups[0], area, covers)))
    groups = {f"{one.name.removeprefix('backbone.')}-groups": one.groups[0].numpy() for one in blocks}
    return MergedImage(tuple(panels), groups, grid[0] * grid[1], blocks[-1].tokens)
