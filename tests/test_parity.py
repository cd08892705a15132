"""With the same weights every family gives the numbers of those that hold its original: one file over the table of
`oracles.py`."""

import pytest
from oracles import PAIRS, compare

from vitrail import catalog

CASES = [
    pytest.param(pair, size, id="-".join((*pair[:3], "x".join(map(str, size)))))
    for pair in PAIRS
    for size in pair.sizes
]
SQUARE = {
    ("vit", "torchvision"),
    ("beit", "transformers"),
    ("pvt", "transformers"),
    ("dit", "diffusers"),
    ("samvit", "transformers"),
}  # take no other images
KEPT = {
    ("vit", "original"): (32, 32),
    ("dit", "original"): (8, 8),
    ("jit", "original"): (32, 32),
}  # outputs were kept at one size


@pytest.mark.parametrize(("pair", "size"), CASES)
def test_gives_the_same_numbers(pair, size):
    if pair.oracle != "original":
        pytest.importorskip(pair.oracle)
    errors = compare(pair.make(size), size)
    assert errors.pop("images", 1.0) > 1e-2, "the images matter, so the comparison says something"
    assert max(errors.values()) <= pair.tolerance, errors


@pytest.mark.parametrize("family", catalog.list_modules("models"))
def test_every_family_is_held_against_someone(family):
    assert [pair for pair in PAIRS if pair.family == family]


def test_what_is_more_than_rounding_has_its_reason():
    assert [pair for pair in PAIRS if pair.tolerance > 1e-5 and not pair.why] == []


@pytest.mark.parametrize(("family", "oracle"), sorted({pair[:2] for pair in PAIRS}))
def test_two_sizes_are_compared_and_one_is_not_square(family, oracle):
    sizes = {size for pair in PAIRS if pair[:2] == (family, oracle) for size in pair.sizes}
    squares = {(h, w) for h, w in sizes if h == w}
    if (family, oracle) in KEPT:
        assert sizes == {KEPT[family, oracle]}
    else:
        assert len(sizes) >= 2
        assert squares < sizes or (family, oracle) in SQUARE
