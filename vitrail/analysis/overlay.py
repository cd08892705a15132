"""Overlays of a model's maps on the original image, before preprocessing."""

from typing import NamedTuple

import numpy as np
from torch import Tensor, nn

from vitrail.analysis.cam import resize_to_image
from vitrail.analysis.figures import overlay
from vitrail.analysis.hooks import backbone_of
from vitrail.contracts import Backbone
from vitrail.data.encode import to_rgb
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.types import Grid


class VisibleArea(NamedTuple):
    """The part of an image that the model processed: its rows and columns of pixels, and their size on the model's
    canvas, from the top left."""

    rows: slice
    columns: slice
    canvas: Grid


def find_visible_area(pre: Preprocess, height: int, width: int) -> VisibleArea:
    """The visible area of an image of a size after preprocessing."""
    if pre.resize_mode == "stretch" or (height, width) == pre.size:
        return VisibleArea(slice(0, height), slice(0, width), pre.size)
    if pre.resize_mode == "crop":
        scale = max(pre.size[0] / height, pre.size[1] / width) / pre.crop_ratio
        parts = []
        for whole, visible in zip((height, width), pre.size, strict=True):
            scaled = round(whole * scale)
            begin = (scaled - visible) // 2
            parts.append(slice(round(begin * whole / scaled), round((begin + visible) * whole / scaled)))
        return VisibleArea(parts[0], parts[1], pre.size)
    return VisibleArea(slice(0, height), slice(0, width), pre.scaled_size(height, width))


def compute_extent(model: nn.Module, size: Grid, grid: Grid) -> Grid:
    """The height and width in pixels that a grid of cells covers on a canvas of a size, padding included: cells have
    the stride of the map with this many cells, or divide the canvas evenly."""
    backbone = backbone_of(model)
    strides = backbone.strides if isinstance(backbone, Backbone) else ()
    down, across = (
        next((s * n for s in strides if -(-side // s) == n), side) for side, n in zip(size, grid, strict=True)
    )
    return down, across


def overlay_map(image: np.ndarray, heat: Tensor, pre: Preprocess, covers: Grid) -> np.ndarray:
    """A map [h w] of a model's cells in colours over the image uint8 [H W C], at its resolution: uint8 [H W 3]. Pixels
    outside the visible area are not changed. covers: see `compute_extent`."""
    area = find_visible_area(pre, *image.shape[:2])
    large = resize_to_image(heat.detach().float().cpu(), pre.size, covers)[: area.canvas[0], : area.canvas[1]]
    result = to_rgb(image).copy()
    result[area.rows, area.columns] = overlay(image[area.rows, area.columns], large)
    return result
