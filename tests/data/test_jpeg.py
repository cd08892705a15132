"""torchvision's decoder gives Pillow's pixels of every JPEG that it takes; what was refused is refused as before."""

import io
import random
import sys

import numpy as np
import pytest
import torch
from fuzz_damage import damage
from PIL import Image

from vitrail.data import decode as module
from vitrail.data import jpeg
from vitrail.data.decode import count_levels, decode, read_header
from vitrail.errors import BadImage

ORIENTATION = 0x0112


def encode(seed: int) -> bytes:
    """A JPEG of one of many kinds: quality, subsampling, progressive, restart markers, grey, CMYK, plain RGB, EXIF."""
    chance = np.random.default_rng(seed)
    width, height = (int(side) for side in chance.integers(1, 70, 2))
    noise = chance.integers(0, 256, (height // 5 + 1, width // 5 + 1, 3), np.uint8)
    image = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
    options = {"quality": int(chance.integers(2, 101)), "progressive": seed % 2 == 0, "optimize": seed % 3 == 0}
    if seed % 5 == 0:
        options["restart_marker_blocks"] = int(chance.integers(1, 9))
    if seed % 6 == 0:
        options["exif"] = Image.Exif()
        options["exif"][ORIENTATION] = 1 + seed // 6 % 8
    mode = "L" if seed % 7 == 0 else "CMYK" if seed % 11 == 0 else "RGB"
    if mode == "RGB":
        options |= {"keep_rgb": True} if seed % 13 == 0 else {"subsampling": seed % 3}
    buffer = io.BytesIO()
    image.convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.fixture
def taken(monkeypatch):
    """The images that torchvision decoded; small ones too."""
    images: list[tuple[int, ...]] = []

    def watched(data, header, channels):
        pixels = jpeg.decode_jpeg(data, header, channels)
        if pixels is not None:
            images.append(pixels.shape)
        return pixels

    monkeypatch.setattr(jpeg, "SMALLEST", 0)
    monkeypatch.setattr(module, "decode_jpeg", watched)
    return images


def by_pillow(data: bytes, channels: int = 3) -> np.ndarray | str:
    """Pixels, or the message."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "decode_jpeg", lambda *_: None)
        return outcome(data, channels)


def outcome(data: bytes, channels: int) -> np.ndarray | str:
    try:
        return decode(data, channels)
    except BadImage as error:
        return str(error)


def is_equal(one: np.ndarray | str, other: np.ndarray | str) -> bool:
    return one == other if isinstance(one, str) or isinstance(other, str) else np.array_equal(one, other)


def test_a_thousand_files_have_the_pixels_of_pillow(taken):
    for seed in range(1000):
        data, channels = encode(seed), 1 if seed % 14 == 0 else 3
        pixels = decode(data, channels)
        assert np.array_equal(pixels, by_pillow(data, channels)), seed
        assert pixels.flags.c_contiguous
        assert pixels.flags.writeable
    assert len(taken) > 800


@pytest.mark.filterwarnings("ignore")  # of damaged metadata
def test_damaged_files_have_the_same_outcome_and_nothing_is_printed(taken, capfd):
    chance, kinds = random.Random(3), {str: 0, np.ndarray: 0}
    for case in range(600):
        data = damage(encode(case % 40), chance)
        found = outcome(data, 3)
        assert is_equal(found, by_pillow(data)), case
        kinds[type(found)] += 1
    assert min(kinds.values()) > 100
    assert len(taken) > 100
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("cut", [1, 2, 3, 10, 200])
@pytest.mark.parametrize("seed", [1, 2, 7])
def test_truncated_files_are_refused_in_the_same_words(taken, seed, cut):
    data = encode(seed)
    for changed in (data[:-cut], data + b"\0" * cut, data[: len(data) // 2] + data[len(data) // 2 + cut :]):
        assert is_equal(outcome(changed, 3), by_pillow(changed))


def test_what_is_too_large_is_refused_before_it_is_decoded(taken):
    with pytest.raises(BadImage, match="limit of 100"):
        decode(encode(1), limit=100)
    assert not taken


def test_pillow_decodes_where_torchvision_does_not(monkeypatch):
    data = encode(1)
    header = Image.open(io.BytesIO(data))
    assert jpeg.decode_jpeg(data, header, 3) is None  # small
    monkeypatch.setattr(jpeg, "SMALLEST", 0)
    assert jpeg.decode_jpeg(data, header, 4) is None
    assert jpeg.decode_jpeg(data, header, 1) is None  # grey from colour is Pillow's formula
    pixels = jpeg.decode_jpeg(data, header, 3)
    assert pixels is not None
    assert np.array_equal(pixels, np.asarray(header))
    jpeg.load_decoder.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(jpeg, "find_spec", lambda name: None)
        assert jpeg.decode_jpeg(data, header, 3) is None
    jpeg.load_decoder.cache_clear()
    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, "torch")
        assert jpeg.decode_jpeg(data, header, 3) is None
    assert torch.is_tensor(torch.zeros(1))


def encode_as(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_levels_are_counted_as_the_pixels_have_them():
    image = Image.open(io.BytesIO(encode(1)))
    deep = Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100)
    files = [encode(seed) for seed in range(14)]
    files += [encode_as(image, kind) for kind in ("PNG", "GIF", "TIFF", "BMP", "WEBP", "PPM")]
    files += [encode_as(image.convert(mode), "PNG") for mode in ("1", "L", "LA", "P", "RGBA")]
    files += [encode_as(deep, "PNG"), encode_as(image, "PNG", transparency=(255, 0, 0)), encode_as(deep, "TIFF")]
    files += [encode_as(image.convert("L"), "PNG", transparency=7)]
    for data in files:
        for channels in (1, 3, 4):
            pixels = decode(data, channels)
            counts = [np.bincount(pixels[..., c].ravel(), minlength=256) for c in range(channels)]
            assert np.array_equal(count_levels(data, channels), counts), (read_header(data), channels)
    for data in (files[1][:-30], b"", files[16][:40]):
        with pytest.raises(BadImage) as found:
            count_levels(data)
        assert str(found.value) == outcome(data, 3)
