"""Regions come out of run lengths and polygons as they went in, and what does not fit is refused with a reason."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vitrail.data.annotations.rle import decode_region, decode_runs, fill_polygons, unpack_runs


def lengths(mask: np.ndarray) -> list[int]:
    """Run lengths down the columns, pixels outside first: the definition, written out."""
    counts, value = [0], False
    for pixel in mask.T.ravel():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


def packed(counts: list[int]) -> str:
    """Run lengths as COCO packs them into text."""
    text = ""
    for i, count in enumerate(counts):
        value = count - counts[i - 2] if i > 2 else count
        while True:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            text += chr((bits | 32 if more else bits) + 48)
            if not more:
                break
    return text


masks = arrays(bool, st.tuples(st.integers(1, 24), st.integers(1, 24)))


@settings(deadline=None)
@given(masks)
def test_run_lengths_come_back(mask):
    height, width = mask.shape
    counts = lengths(mask)
    assert (decode_runs(counts, height, width) == mask).all()
    assert unpack_runs(packed(counts)) == counts
    assert (decode_region({"size": [height, width], "counts": packed(counts)}, height, width) == mask).all()


@settings(deadline=None)
@given(masks)
def test_as_the_reference_packs_them(mask):
    reference = pytest.importorskip("pycocotools.mask")
    text = reference.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    assert unpack_runs(text) == lengths(mask)


def test_a_polygon_takes_the_pixels_whose_centres_it_holds():
    square = fill_polygons([[2, 3, 6, 3, 6, 5, 2, 5]], 8, 10)
    assert square.sum() == 8
    assert square[3:5, 2:6].all()
    assert (
        fill_polygons([[0, 0, 4, 0, 4, 4, 0, 4], [4, 4, 8, 4, 8, 8, 4, 8]], 8, 8).sum() == 32
    )  # two parts of one object
    assert fill_polygons([[-5, -5, 20, -5, 20, 20, -5, 20]], 8, 8).all()  # further than the image
    rows, columns = np.mgrid[:40, :40] + 0.5
    assert (
        fill_polygons([[0, 0, 40, 0, 0, 40]], 40, 40) == (rows + columns < 40)
    ).mean() > 0.98  # but for centres on the edge


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ({"size": [4, 5], "counts": [10, 3]}, "sum to 13 pixels, and the image has 20"),
        ({"size": [5, 4], "counts": [20]}, "has the size"),
        ({"size": [4, 5], "counts": [30, -10]}, "not whole numbers"),
        ({"size": [4, 5], "counts": [20.0]}, "not whole numbers"),
        ({"size": [4, 5], "counts": None}, "not whole numbers"),
        ({"size": [4, 5], "counts": "d0\x7f"}, "cannot be unpacked"),
        ({"size": [4, 5], "counts": "ooooooooooooooooooooooooo"}, "cannot be unpacked"),
        ({"size": [4, 5], "counts": "o"}, "truncated"),
        ({"size": [4, 5], "counts": "é"}, "not ASCII"),
        ([[1, 2, 3, 4]], "not three to"),
        ([[1, 2, 3, 4, 5, float("nan")]], "not three to"),
        ([["a", "b"]], "not a list of numbers"),
        (5, "neither"),
    ],
)
def test_what_does_not_fit_is_refused(found, reason):
    with pytest.raises(ValueError, match=reason):
        decode_region(found, 4, 5)


@settings(deadline=None)
@given(st.text(max_size=40))
def test_any_text_unpacks_or_is_refused(text):
    told = ""
    try:
        found = unpack_runs(text)
    except ValueError as error:
        found, told = [], str(error)
    assert all(isinstance(c, int) for c in found)
    assert ("packed run lengths" in told) == bool(told)
