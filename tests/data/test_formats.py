"""Which files are read, by content and by ending; the others are named with the way to read them. Huge images stay
within memory."""

import io
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, features

from vitrail.cli.output.terminal import printable_streams
from vitrail.data import formats
from vitrail.data.decode import decode, read_header
from vitrail.data.files import list_images
from vitrail.data.pixels import STRIP
from vitrail.datasets import imagefolder
from vitrail.errors import BadImage, DataError

GREYS = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5


def stored(image: Image.Image, kind: str, **how) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def test_portable_maps_of_every_depth():
    colour = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    assert (decode(stored(Image.fromarray(colour), "PPM")) == colour).all()
    assert (decode(stored(Image.fromarray(GREYS), "PPM"), 1)[..., 0] == GREYS).all()
    deep = b"P5 8 6 4095\n" + (GREYS.astype(int) * 16).astype(">u2").tobytes()
    assert np.abs(decode(deep, 1)[..., 0].astype(int) - GREYS).max() <= 1  # of 4,095, not of 65,535
    assert decode(b"P1 2 1\n1 0\n", 1).ravel().tolist() == [0, 255]
    assert read_header(b"P6 8 6 255\n" + bytes(144))[:2] == ((6, 8), "RGB")
    with pytest.raises(BadImage, match="truncated"):
        decode(b"P6 8 6 255\n" + bytes(100))


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif():
    assert np.abs(decode(stored(Image.fromarray(GREYS), "AVIF", quality=100), 1)[..., 0].astype(int) - GREYS).max() < 9


def test_heic_is_read_upright_where_its_library_is():
    heif = pytest.importorskip("pillow_heif")
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    picture = Image.fromarray(np.repeat(np.arange(0, 256, 4, np.uint8)[None, :, None], 32, 0).repeat(3, 2))
    heif.from_pillow(picture).save(buffer, quality=100, exif=exif.tobytes())
    pixels = decode(buffer.getvalue())
    assert pixels.shape == (64, 32, 3)  # turned by a quarter: dark above, bright below
    assert pixels[:4].mean() < 20 < 230 < pixels[-4:].mean()
    assert read_header(buffer.getvalue()).size == (64, 32)


def test_without_its_library_heic_is_named_with_the_way_to_read_it(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "has_heif", lambda: False)
    monkeypatch.setattr(formats, "has_avif", lambda: False)
    for brand, fix in ((b"heic", "pip install pillow-heif"), (b"mif1", "pillow-heif"), (b"avif", "-U pillow")):
        with pytest.raises(BadImage) as info:
            decode(b"\0\0\0\x18ftyp" + brand + bytes(44))
        assert fix in info.value.fix
    for kind in "ab":
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "0.heic").write_bytes(b"\0\0\0\x18ftypheic")
        (tmp_path / kind / "1.AVIF").write_bytes(b"")
        (tmp_path / kind / "2.jxl").write_bytes(b"")
        (tmp_path / kind / "3.txt").write_bytes(b"")
        (tmp_path / kind / ".cache").write_bytes(b"")
    assert list_images(tmp_path).notes() == [
        "images that cannot be read here were left out: 2 .jxl; to read them: convert them to JPEG or PNG",
        "images that cannot be read here were left out: 2 .avif; to read them: pip install -U pillow",
        "images that cannot be read here were left out: 2 .heic; to read them: pip install pillow-heif",
        "2 files that are not images were left out: 2 .txt",
        "2 hidden files or folders were left out",
    ]
    with pytest.raises(DataError, match=r"2 \.heic; to read them: pip install pillow-heif"):
        imagefolder.build(imagefolder.Config(str(tmp_path)))


def test_a_large_image_is_converted_in_strips_to_the_same_pixels():
    width = 1000
    tall = np.random.default_rng(0).integers(0, 256, (STRIP // width * 2 + 7, width), np.uint8)
    for orientation in (1, 6, 3, 5):
        exif = Image.Exif()
        exif[0x0112] = orientation
        pixels = decode(stored(Image.fromarray(tall), "PNG", compress_level=0, exif=exif.tobytes()), 1)[..., 0]
        upright = {1: tall, 6: np.rot90(tall, -1), 3: tall[::-1, ::-1], 5: tall.T}[orientation]
        assert (pixels == upright).all()
        assert pixels.flags.c_contiguous
    deep = tall.astype(np.uint16) * 257
    assert (decode(stored(Image.fromarray(deep), "TIFF"), 1)[..., 0] == tall).all()


def test_damaged_files_print_nothing(capfd):
    """Neither libtiff, which writes to the terminal itself, nor Pillow, nor its log."""
    rng, bad = np.random.default_rng(0), 0
    noise = Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8))
    seeds = [
        stored(noise.convert("1") if kind == "group4" else noise, "TIFF", compression=kind)
        for kind in ("tiff_lzw", "tiff_adobe_deflate", "group4", "packbits")
    ]
    seeds += [stored(noise, "JPEG", exif=b"Exif\0\0MM\0*" + bytes(40)), stored(noise, "PNG")]
    with printable_streams():
        for i in range(120):
            data = bytearray(seeds[i % len(seeds)])
            for at in rng.integers(0, min(len(data), 200 if i % 2 else 10**9), 4):
                data[at] = rng.integers(256)
            try:
                decode(bytes(data))
            except BadImage:
                bad += 1
        os.write(2, b"and the gate is open again")
    assert bad > 20
    assert capfd.readouterr() == ("", "and the gate is open again")


BIG = """
import io, resource, sys, zlib, struct
from vitrail.data.decode import decode
def chunk(kind, data): return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
side, z = 8000, zlib.compressobj(1)
rows = b"".join(z.compress(bytes(1 + side // 8)) for _ in range(side)) + z.flush()
head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
data = b"\\x89PNG\\r\\n\\x1a\\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert decode(data).shape == (side, side, 3)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss")
def test_64_million_pixels_take_less_than_300_mb():
    done = subprocess.run([sys.executable, "-c", BIG], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 300  # the pixels alone are 192
