"""The page prepares images as training does: the same pixels, or one level beside them."""

import dataclasses

import numpy as np
import pytest
import torch
from scripts import as_image, as_pixels, needs_node, run_scripts

from vitrail.data.decode import decode
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.data.transforms.resize import resize_image
from vitrail.inference.windows import average_windows, merge_detections, most_likely

SCRIPTS = ("resize.js", "answers.js")
GREY = Preprocess((28, 28), 1, (0.3,), (0.3,))
COLOUR = Preprocess((32, 48), 3, (0.485, 0.456, 0.406), (0.2, 0.2, 0.2))
pytestmark = needs_node


def smooth_and_noise(height: int, width: int, channels: int, seed: int) -> np.ndarray:
    """Half waves, half noise: both what photographs have and what shows every weight."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = 127 + 100 * np.sin(x / 5 + seed) * np.cos(y / 7)
    pixels = np.where(
        (x + y)[:, :, None] % 64 < 32, waves[:, :, None], random.integers(0, 256, (height, width, channels))
    )
    return pixels.astype(np.uint8)


def settings(pre: Preprocess) -> dict:
    return dataclasses.asdict(pre)


@pytest.fixture(scope="module")
def resized():
    """Sizes, and what torchvision and the page make of them."""
    pairs = [
        ((h, w), to) for h, w in ((32, 32), (97, 41), (7, 300), (480, 333)) for to in ((28, 28), (32, 48), (130, 5))
    ]
    cases = [
        (smooth_and_noise(*size, 3, i), to, how)
        for i, (size, to) in enumerate(pairs)
        for how in ("bilinear", "bicubic")
    ]
    body = "([image, to, how]) => resizeImage(image, to, how)"
    results = run_scripts(SCRIPTS, body, [[as_image(pixels), to, how] for pixels, to, how in cases])
    return [(pixels, to, how, as_pixels(result)) for (pixels, to, how), result in zip(cases, results, strict=True)]


def test_resize_equals_torchvision(resized):
    for pixels, to, how, ours in resized:
        expected = resize_image(torch.from_numpy(pixels.transpose(2, 0, 1).copy()), to, how).numpy().transpose(1, 2, 0)
        difference = np.abs(ours.astype(int) - expected)
        assert difference.max() <= 1, (pixels.shape, to, how)
        assert (difference > 0).mean() < 0.01, (pixels.shape, to, how)


@pytest.fixture(scope="module")
def prepared():
    """Images of every resize mode, with what the page makes of them."""
    modes = [
        (GREY, "stretch"),
        (COLOUR, "stretch"),
        (COLOUR, "crop"),
        (COLOUR, "fit"),
        (COLOUR, "slide"),
        (COLOUR, "tile"),
    ]
    cases = []
    for pre, mode in modes:
        for how, size in (
            ("bilinear", (61, 87)),
            ("bicubic", (130, 44)),
            ("bilinear", pre.size),
            ("bicubic", (19, 11)),
        ):
            one = dataclasses.replace(pre, resize_mode=mode, interpolation=how)
            cases.append((one, smooth_and_noise(*size, pre.channels, 3)))
    body = """([image, input]) => ({ one: fitImage(image, input), planes: toPlanes(fitImage(image, input)),
      ...cutWindows(image, input), area: visibleArea(input, image) })"""
    results = run_scripts(SCRIPTS, body, [[as_image(pixels), settings(pre)] for pre, pixels in cases])
    return [(*case, result) for case, result in zip(cases, results, strict=True)]


def test_one_image_as_preprocess_makes_it(prepared):
    for pre, pixels, result in prepared:
        expected = pre.image(pixels).numpy()
        ours = as_pixels(result["one"]).transpose(2, 0, 1)
        assert ours.shape == expected.shape
        assert np.abs(ours.astype(int) - expected).max() <= 1, pre
        assert (result["planes"].reshape(ours.shape) == ours).all()


def test_a_line_of_pixels_is_refused_and_not_enlarged():
    line = np.zeros((1, 65_500, 3), np.uint8)
    body = """([image, input]) => {
      const refused = cut => { try { cut(image, input); } catch (error) { return error.message; } };
      return [refused(fitImage), refused(cutWindows)]; }"""
    for mode in ("crop", "slide"):
        input = settings(dataclasses.replace(COLOUR, resize_mode=mode))
        [messages] = run_scripts(SCRIPTS, body, [[as_image(line), input]])
        assert "too long and narrow" in (messages[0] if mode == "crop" else messages[1])


def test_windows_as_preprocess_cuts_them(prepared):
    for pre, pixels, result in prepared:
        if pre.resize_mode == "crop":
            continue
        expected = pre.windows(pixels)
        assert tuple(result["size"]) == pre.scaled_size(*pixels.shape[:2])
        places = [(w["top"], w["left"], tuple(w["size"])) for w in result["windows"]]
        assert places == [(w.top, w.left, w.size) for w in expected]
        for ours, window in zip(result["windows"], expected, strict=True):
            image = as_pixels(ours["image"]).transpose(2, 0, 1).astype(int)
            assert np.abs(image - window.image.numpy()).max() <= 1


def test_visible_area_as_overlays_have_it(prepared):
    from vitrail.analysis.overlay import find_visible_area

    for pre, pixels, result in prepared:
        if pre.resize_mode in ("slide", "tile"):
            continue
        area, ours = find_visible_area(pre, *pixels.shape[:2]), result["area"]
        assert tuple(ours["canvas"]) == tuple(area.canvas)
        assert abs(ours["top"] - area.rows.start) <= 0.5
        assert abs(ours["left"] - area.columns.start) <= 0.5
        assert abs(ours["top"] + ours["rows"] - area.rows.stop) <= 0.5
        assert abs(ours["left"] + ours["columns"] - area.columns.stop) <= 0.5


def test_channels_as_decode_has_them():
    from PIL import Image

    pixels = smooth_and_noise(9, 13, 3, 1)
    rgba = np.dstack([pixels, np.full((9, 13), 255, np.uint8)])
    body = """([rgba, channels]) => {
      const out = new Uint8Array(rgba.length / 4 * channels);
      takeChannels(rgba, channels, out, 0);
      return out; }"""
    results = run_scripts(SCRIPTS, body, [[rgba, channels] for channels in (1, 3, 4)])
    for channels, ours in zip((1, 3, 4), results, strict=True):
        expected = decode(Image.fromarray(pixels), channels)
        assert (ours.reshape(expected.shape) == expected).all()


def test_label_maps_as_windows_make_them():
    pre = dataclasses.replace(COLOUR, resize_mode="slide")
    pixels = smooth_and_noise(50, 200, 3, 5)
    windows, size = pre.windows(pixels), pre.scaled_size(50, 200)
    logits = [torch.randn(4, *pre.size, generator=torch.Generator().manual_seed(i)) for i in range(len(windows))]
    expected = most_likely(
        average_windows(iter(list(zip(windows, logits, strict=True))), len(windows), size), (50, 200)
    )
    parts = [
        {"window": {"top": w.top, "left": w.left, "size": w.size}, "values": values.flatten().tolist()}
        for w, values in zip(windows, logits, strict=True)
    ]
    body = """([parts, size, canvas]) =>
      mostLikely(averageWindows(parts, 4, size, canvas), 4, size, { width: 200, height: 50 })"""
    [ours] = run_scripts(SCRIPTS, body, [[parts, size, pre.size]])
    assert (ours["width"], ours["height"]) == (200, 50)
    assert (ours["data"].reshape(50, 200) == expected).mean() > 0.999  # ties of floats aside


@pytest.mark.parametrize(("mode", "nms_iou"), [("tile", None), ("tile", 0.3), ("fit", 0.3)])
def test_boxes_of_windows_are_merged_alike(mode, nms_iou):
    """Also those of one window, where the model has duplicates."""
    pre = dataclasses.replace(COLOUR, resize_mode=mode)
    pixels = smooth_and_noise(60, 110, 3, 5)
    windows, random = pre.windows(pixels), np.random.default_rng(0)
    parts, detections = [], []
    for w in windows:
        corner = random.uniform(0, 30, (40, 2))
        rows = np.hstack([corner, corner + random.uniform(3, 30, (40, 2)), random.uniform(0, 1, (40, 1)),
                          random.integers(0, 3, (40, 1))]).astype(np.float32)  # fmt: skip
        detections.append((w, torch.from_numpy(rows)))
        parts.append({"window": {"top": w.top, "left": w.left, "size": w.size}, "rows": rows.tolist()})
    size = pre.scaled_size(60, 110)
    expected = merge_detections(detections, size, nms_iou).numpy()
    body = "([parts, size, nmsIou]) => mergeBoxes(parts, size, nmsIou)"
    [ours] = run_scripts(SCRIPTS, body, [[parts, size, nms_iou]])
    assert (len(windows) > 1) == (mode == "tile")
    assert len(expected) < 40 * len(windows)
    np.testing.assert_allclose(np.array(ours), expected, rtol=1e-5)
