"""Masks and boxes on images, as uint8 [H W 3], and label maps as PNG with a palette."""

import colorsys
import io
from functools import lru_cache

import numpy as np
from PIL import Image

from vitrail.data.dataset import IGNORE
from vitrail.data.encode import to_rgb, write_png

PALETTES = 8  # of so many numbers of classes are kept
GOLDEN = 0.618033988749895  # steps of the hue by the golden ratio keep neighbouring classes apart
VISIBLE = np.repeat(np.array([0, *[255] * 254, 0], np.uint8), 3).reshape(256, 3)  # all bits of classes that are drawn
GROUND = (40, 40, 48)  # the colour of class 0 on a label map


@lru_cache(PALETTES)
def palette(classes: int) -> np.ndarray:
    """A colour for each class and for ignored pixels (255), uint8 [256 3], not to be written to; class 0, usually
    background, is dark."""
    colours = np.zeros((256, 3), np.uint8)
    for i in range(max(classes, 1)):
        shade = colorsys.hsv_to_rgb(0.02 + GOLDEN * i, 0.75 - 0.25 * (i // 20 % 2), 0.95 - 0.2 * (i // 10 % 2))
        colours[i] = [round(255 * part) for part in shade]
    colours[0], colours[255] = GROUND, (255, 255, 255)
    colours.setflags(write=False)
    return colours


def overlay_mask(pixels: np.ndarray, mask: np.ndarray, classes: int) -> np.ndarray:
    """An image with its label map [H W] laid over it, half of each; class 0 and ignored pixels leave it unchanged."""
    image = to_rgb(pixels)
    colours = np.take(palette(classes), mask, axis=0)
    differing = image ^ colours  # a + b = 2 (a & b) + (a ^ b), without more bits than they have
    blended = image & colours
    blended += differing >> 1
    blended += differing & blended & 1  # halves are rounded to even numbers, as floats are
    blended ^= image
    blended &= np.take(VISIBLE, mask, axis=0)
    blended ^= image
    return blended


def encode_label_map(mask: np.ndarray, classes: int) -> bytes:
    """A PNG, encoded fast, whose pixels are the class indices and whose palette gives them colours."""
    return write_png(mask, palette(classes))


def draw_boxes(pixels: np.ndarray, boxes: np.ndarray, labels: np.ndarray, names: list[str]) -> np.ndarray:
    """An image with boxes [n 4] drawn in the colours of their classes, each with its name."""
    import torch
    from torchvision.utils import draw_bounding_boxes

    image = torch.from_numpy(to_rgb(pixels).copy()).permute(2, 0, 1)
    if not len(boxes):
        return to_rgb(pixels)
    colours = palette(IGNORE)[labels.astype(int) % (IGNORE - 1) + 1]  # more classes than colours share some
    line = max(1, round(min(image.shape[1:]) / 200))
    edges = torch.from_numpy(boxes.astype(np.float32).round())
    edges[:, 2:] = edges[:, 2:].maximum(edges[:, :2] + 1)
    canvas = draw_bounding_boxes(image, edges, names, [tuple(int(v) for v in colour) for colour in colours], width=line)
    return canvas.permute(1, 2, 0).numpy()


def encode_jpeg(pixels: np.ndarray, side: int) -> bytes:
    """At most `side` pixels long; a small image is enlarged pixel by pixel."""
    image = Image.fromarray(pixels)
    if max(image.size) < side // 2:
        times = side // max(image.size)
        image = image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
