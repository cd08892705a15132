"""Regions of an image in COCO's format: polygons, and run lengths down the columns, as numbers or packed into text.

Runs begin with pixels outside; columns follow each other. In text, a number is written five bits at a time, lowest
first, each as one character from "0" on, plus 32 if more follow; from the fourth number on, the difference to the
number two before is written.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

LONGEST = 50_000_000  # characters of packed runs
POINTS = 100_000  # of a polygon


def decode_region(segmentation: Any, height: int, width: int) -> np.ndarray:
    """Decodes a "segmentation", polygons or {"size": [height, width], "counts": runs}: bool [H W]. Errors:
    `ValueError`."""
    if isinstance(segmentation, dict):
        if segmentation.get("size") not in ([height, width], (height, width)):
            raise ValueError(f"has the size {str(segmentation.get('size'))[:60]}, and the image is {[height, width]}")
        counts = segmentation.get("counts")
        return decode_runs(unpack_runs(counts) if isinstance(counts, str) else counts, height, width)
    if isinstance(segmentation, list):
        return fill_polygons(segmentation, height, width)
    raise ValueError("is neither polygons nor run lengths")


def decode_runs(counts: Any, height: int, width: int) -> np.ndarray:
    """bool [H W] from run lengths, pixels outside first. Errors: `ValueError` for non-numbers or a wrong sum."""
    if not isinstance(counts, list) or not all(type(c) is int and 0 <= c <= height * width for c in counts):
        raise ValueError("has run lengths that are not whole numbers from 0 to the number of pixels")
    if sum(counts) != height * width:
        raise ValueError(f"has run lengths that sum to {sum(counts):,} pixels, and the image has {height * width:,}")
    inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(inside, counts).reshape(width, height).T


def unpack_runs(text: str) -> list[int]:
    """Run lengths from packed text. Errors: `ValueError`."""
    if len(text) > LONGEST or not text.isascii():
        raise ValueError("has packed run lengths that are too long or not ASCII")
    counts: list[int] = []
    value = shift = 0
    for byte in text.encode():
        bits = byte - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("has packed run lengths that cannot be unpacked")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:  # the sign
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("has packed run lengths that are truncated")
    return counts


def fill_polygons(segmentation: Sequence[Any], height: int, width: int) -> np.ndarray:
    """bool [H W]: pixels whose centres lie in any of the polygons [x, y, x, y, ...]. Errors: `ValueError`."""
    inside = np.zeros((height, width), bool)
    for points in segmentation:
        flat = polygon_points(points)
        inside |= fill_polygon(flat[::2], flat[1::2], height, width)
    return inside


def polygon_points(points: Any) -> np.ndarray:
    """float64 [2 n]: x and y of the corners of a polygon, in turn. Errors: `ValueError`."""
    try:
        flat = np.array(points, np.float64).ravel()
    except (ValueError, TypeError, OverflowError):
        raise ValueError("has a polygon that is not a list of numbers") from None
    if flat.size < 6 or flat.size % 2 or flat.size > 2 * POINTS or not np.isfinite(flat).all():
        raise ValueError(f"has a polygon that is not three to {POINTS:,} points of two numbers each")
    return flat


def fill_polygon(x: np.ndarray, y: np.ndarray, height: int, width: int) -> np.ndarray:
    """bool [H W]: pixels with an odd number of edges to the left of their centre (even-odd rule)."""
    crossed = np.zeros((height, width + 1), np.int64)
    centres = np.arange(height) + 0.5
    for x0, y0, x1, y1 in zip(x, y, np.roll(x, -1), np.roll(y, -1), strict=True):
        rows = np.flatnonzero((centres >= min(y0, y1)) & (centres < max(y0, y1)))
        where = x0 + (centres[rows] - y0) / (y1 - y0) * (x1 - x0)
        crossed[rows, np.clip(np.ceil(where - 0.5), 0, width).astype(np.int64)] += 1
    return crossed[:, :-1].cumsum(1) % 2 == 1
