"""JPEGs decoded at a reduced size, which is only done where a recipe asks for it."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitrail.assembly.data import open_data
from vitrail.assembly.opening.packing import pack_data
from vitrail.data.dataset import ArrayReader, Dataset, Split, join_splits, map_readers
from vitrail.data.decode import decode
from vitrail.data.files import FileReader
from vitrail.errors import BadImage, UsageError
from vitrail.recipe import DataConfig, Recipe
from vitrail.tasks import classification, segmentation
from vitrail.training.feed import reduce_decoding


def smooth(height, width):
    down, across = np.mgrid[0:height, 0:width]
    return np.stack([127 + 90 * np.sin(down / 31), 127 + 90 * np.cos(across / 23), (down + across) / 5], 2).astype("u1")


def encode(image, kind="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("least", "size"), [(0, 1), (201, 1), (200, 2), (101, 2), (100, 4), (51, 4), (50, 8), (1, 8)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_smallest_size_whose_shorter_side_is_enough(least, size, mode):
    data = encode(Image.fromarray(smooth(400, 600)).convert(mode), quality=95)
    pixels = decode(data, least=least)
    assert pixels.shape == (400 // size, 600 // size, 3)
    whole = decode(data)
    if size == 1:
        assert (pixels == whole).all()
    means = whole.reshape(400 // size, size, 600 // size, size, 3).mean((1, 3))
    assert np.abs(means - pixels).max() < 8
    assert np.abs(means - pixels).mean() < 1


def test_what_it_leaves_as_it_is_and_what_it_refuses():
    image = Image.fromarray(smooth(64, 48))
    for content in (encode(image, "PNG"), encode(image.convert("CMYK"))):
        assert (decode(content, least=4) == decode(content)).all()
    turned = Image.Exif()
    turned[0x0112] = 6
    assert decode(encode(image, exif=turned.tobytes()), least=24).shape == (24, 32, 3)
    assert (decode(encode(image), least=8) == decode(encode(image), least=8)).all()
    for cut in (2, 40, 300, len(encode(image)) - 8):
        with pytest.raises(BadImage):
            decode(encode(image)[:cut], least=8)


def test_readers_behind_subsets_joined_parts_and_in_shards(tmp_path):
    for i in range(4):
        (tmp_path / "photos" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(smooth(64, 64 + i)).save(tmp_path / "photos" / "ab"[i % 2] / f"{i}.jpg")
    choice = DataConfig("", {"path": str(tmp_path / "photos"), "held_out": 0.0})
    pack_data(choice, tmp_path / "shards", 10**6)
    for data in (choice, DataConfig("", {"path": str(tmp_path / "shards")})):
        split = open_data(data)[0].splits["train"]
        joined = join_splits([split.select(np.array([3, 1])), split])
        read = map_readers(joined.read, lambda one: one.reduced(32))
        whole, small = ([of(i).shape for i in range(6)] for of in (joined.read, read))
        assert [(64, width, 3) for width in (67, 66, 64, 66, 65, 67)] == whole
        assert small == [(32, -(-width // 2), 3) for _, width, _ in whole]
        assert (joined.places is None) == (split.places is None)
        if split.places is not None:
            assert joined.places.tolist() == [*split.places[[3, 1]], *split.places]


def test_a_recipe_that_asks_for_it():
    recipe, names = Recipe(), ["a.jpg"]
    recipe = replace(recipe, input=replace(recipe.input, size=(40, 60), crop_ratio=0.875))
    files = Split(names, np.zeros(1, np.int64), FileReader(Path(), names, 3))
    data = Dataset("imagefolder", ("a",), {"train": files, "val": files}, 3)
    classes = classification.build(classification.Config(classes=1))
    assert reduce_decoding(recipe, data, classes) is data
    asked = replace(recipe, augment=replace(recipe.augment, reduced_decode=True, crop="random", scale=(0.25, 1.0)))
    reduced = reduce_decoding(asked, data, classes)
    assert reduced.splits["train"].read.least == 120
    assert reduced.splits["val"].read.least == 0
    arrays = Dataset("npz", ("a",), {"train": Split(names, files.labels, ArrayReader(np.zeros((1, 8, 8, 3))))}, 3)
    for dataset, task in ((arrays, classes), (data, segmentation.build(segmentation.Config(classes=2)))):
        with pytest.raises(UsageError, match=r"augment\.reduced_decode is for"):
            reduce_decoding(asked, dataset, task)
