"""Masks over images: the same pixels as in floats, and files that hold what they were given."""

import io

import numpy as np
import pytest
from PIL import Image

from vitrail.data import encode
from vitrail.data.encode import encode_png, write_png
from vitrail.report.page.overlays import encode_label_map, overlay_mask, palette

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(31, 17, 3), (31, 17, 1), (31, 17), (8, 9, 4)])
@pytest.mark.parametrize("classes", [2, 21, 255])
def test_an_overlay_is_half_of_each_rounded_as_floats_are(shape, classes):
    pixels = RANDOM.integers(0, 256, shape, np.uint8)
    mask = RANDOM.integers(0, classes, shape[:2], np.uint8)
    mask[:3] = 255
    rgb = np.repeat(pixels.reshape(*shape[:2], -1)[:, :, :1], 3, 2) if pixels.size < 3 * mask.size else pixels[:, :, :3]
    alpha = 0.5 * ((mask > 0) & (mask < 255))[:, :, None]
    expected = np.rint(rgb * (1 - alpha) + palette(classes)[mask] * alpha).astype(np.uint8)
    before = pixels.copy()
    assert (overlay_mask(pixels, mask, classes) == expected).all()
    assert (pixels == before).all()


def test_a_palette_is_shared_and_nobody_writes_to_it():
    assert palette(4) is palette(4)
    with pytest.raises(ValueError, match="read-only"):
        palette(4)[0] = 0


@pytest.mark.parametrize("fast", [True, False])
def test_a_png_holds_its_pixels(fast):
    for shape in ((5, 7, 3), (5, 7), (1, 1), (1, 9, 3), (1, 3), (300, 2, 3)):
        pixels = RANDOM.integers(0, 256, shape, np.uint8)
        assert (read(encode_png(pixels, fast)) == pixels).all()
    turned = RANDOM.integers(0, 256, (6, 4, 3), np.uint8)[::-1].transpose(1, 0, 2)
    assert (read(encode_png(turned, fast)) == turned).all()
    mask = RANDOM.integers(0, 5, (9, 4), np.uint8)
    with Image.open(io.BytesIO(encode_label_map(mask, 5))) as image:
        assert image.mode == "P"
        assert (np.asarray(image) == mask).all()
        assert image.getpalette()[:15] == palette(5)[:5].ravel().tolist()


@pytest.mark.parametrize("strip", [1, 40, 100])
def test_a_png_is_the_same_in_strips(strip, monkeypatch):
    pixels, colours = RANDOM.integers(0, 256, (11, 6, 3), np.uint8), palette(3)
    whole = [write_png(pixels), write_png(pixels[:, :, 0]), write_png(pixels[:, :, 0], colours)]
    monkeypatch.setattr(encode, "STRIP", strip)
    assert [write_png(pixels), write_png(pixels[:, :, 0]), write_png(pixels[:, :, 0], colours)] == whole
    assert (read(whole[0]) == pixels).all()


def read(content):
    return np.asarray(Image.open(io.BytesIO(content)))
