"""Every image a user may have comes in by the written rule, upright, or is refused with a reason; nothing but BadImage
comes out."""

import contextlib
import io
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from vitrail.data.decode import decode, read_header
from vitrail.errors import BadImage, UsageError

MODES = [
    "1",
    "L",
    "LA",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBX",
    "RGBa",
    "CMYK",
    "YCbCr",
    "HSV",
    "LAB",
    "I",
    "F",
    "I;16",
    "I;16L",
    "I;16B",
]
FORMATS = ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"]


def make_image(height=20, width=30, seed=0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def stored(image: Image.Image, kind: str, *, exif=None, frames=(), lossless=False) -> bytes:
    buffer = io.BytesIO()
    given: dict = {"exif": exif} if exif else {}
    given |= {"save_all": True, "append_images": list(frames)} if frames else {}
    given |= {"lossless": True} if lossless else {}
    image.save(buffer, kind, **given)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, bits: int, kind: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG by hand: sizes that are not true, and 16-bit colour, which Pillow does not write."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(values: np.ndarray, sample: int = 1, white_is_zero: bool = False) -> bytes:
    """An uncompressed grey TIFF by hand; the byte order and depth are those of `values`. sample: 1 unsigned, 2 signed,
    3 float."""
    order = ">" if values.dtype.byteorder == ">" else "<"
    data = values.tobytes()
    height, width = values.shape
    fields = [
        (256, width),
        (257, height),
        (258, values.dtype.itemsize * 8),
        (259, 1),
        (262, 0 if white_is_zero else 1),
        (273, 8),
        (277, 1),
        (278, height),
        (279, len(data)),
        (339, sample),
    ]
    table = b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in fields)
    mark = b"MM\0*" if order == ">" else b"II*\0"
    return (
        mark
        + struct.pack(order + "I", 8 + len(data))
        + data
        + struct.pack(order + "H", len(fields))
        + table
        + b"\0" * 4
    )


def refused(source, limit=64_000_000) -> BadImage:
    with pytest.raises(BadImage) as caught:
        decode(source, limit=limit)
    assert str(caught.value).count("\n") < 5
    assert caught.value.fix
    return caught.value


# D01: planted damage


def plant(folder, good: bytes, suffix: str, seed: int) -> list:
    """Ten bad files: empty, HTML, cuts, wrong contents, no size."""
    texts = {
        "empty": b"",
        "html": b"<!DOCTYPE html><html>404</html>",
        "text": b"not an image at all",
        "zeros": b"\0" * 500,
        "noise": b"\xff\xd8\xff" + np.random.default_rng(seed).bytes(400),
        "nothing": png(0, 0, 8, 2, b""),
    }
    cuts = {f"cut{share}": good[: max(1, len(good) * share // 100)] for share in (1, 25, 50, 99)}
    paths = []
    for name, data in (texts | cuts).items():
        paths.append(folder / f"{name}-{suffix}.{suffix}")
        paths[-1].write_bytes(data)
    return paths


def test_forty_planted_bad_files_are_named_and_two_hundred_good_ones_are_not(tmp_path):
    bad = [
        p
        for i, kind in enumerate(["jpeg", "png", "webp", "bmp"])
        for p in plant(tmp_path, stored(make_image(64, 48), kind), kind, i)
    ]
    assert len(bad) == 40
    for path in bad:
        assert refused(path).what.startswith(str(path))
    for i in range(200):
        path = tmp_path / f"good{i}"
        path.write_bytes(stored(make_image(8 + i % 40, 8 + i % 23, i), FORMATS[i % 6]))
        assert decode(path).shape == (8 + i % 40, 8 + i % 23, 3)


@pytest.mark.parametrize("kind", FORMATS)
def test_the_last_bytes_matter(kind):
    data = stored(make_image(40, 40), kind)
    for cut in (3, 8, 40):
        refused(data[:-cut])


def test_a_wrong_suffix_does_no_harm(tmp_path):
    (tmp_path / "a.jpg").write_bytes(stored(make_image(), "PNG"))
    assert (decode(tmp_path / "a.jpg") == np.asarray(make_image())).all()


def test_reasons_are_in_words(tmp_path):
    cases = {
        b"": "is empty",
        b"<html>": "web page",
        stored(make_image(), "JPEG")[:400]: "truncated",
        stored(make_image(), "PNG")[:-2]: "truncated",
        b"\x89PNG\r\n\x1a\n": "truncated",
    }
    for data, reason in cases.items():
        assert reason in refused(data).what
    assert "does not exist" in refused(tmp_path / "none.png").what
    assert "cannot be read" in refused(tmp_path).what


def test_settings_are_left_alone():
    decode(stored(make_image(), "PNG"))
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    assert Image.MAX_IMAGE_PIXELS == 1024**3 // 12


# D02: what is stored and what comes out


def test_sixteen_bits_are_scaled_not_clipped():
    values = np.random.default_rng(0).integers(0, 65536, (64, 64)).astype(np.uint16)
    wanted = np.rint(values.astype(np.float64) * 255 / 65535)
    by_hand = png(64, 64, 16, 0, b"".join(b"\0" + row.astype(">u2").tobytes() for row in values))
    for data in (stored(Image.fromarray(values), "PNG"), by_hand, tiff(values), tiff(values.astype(">u2"))):
        assert (decode(data)[..., 0] == wanted).all()
    assert (decode(tiff(values, white_is_zero=True))[..., 0] == 255 - wanted).all()
    for kind, channels in ((2, 3), (4, 2), (6, 4)):
        colour = np.repeat(values[..., None], channels, -1)
        data = png(64, 64, 16, kind, b"".join(b"\0" + row.astype(">u2").tobytes() for row in colour))
        error = np.abs(decode(data, 4)[..., 0].astype(float) - wanted)
        assert error.max() <= 1
        assert error.mean() / 255 <= 1 / 255


def test_a_transparent_value_of_sixteen_bits():
    values = np.array([[1000, 16000, 64000]], ">u2")
    grey = png(3, 1, 16, 0, b"\0" + values.tobytes(), chunk(b"tRNS", struct.pack(">H", 16000)))
    colour = png(
        3,
        1,
        16,
        2,
        b"\0" + np.repeat(values[..., None], 3, -1).tobytes(),
        chunk(b"tRNS", struct.pack(">HHH", 16000, 16000, 16000)),
    )
    for data in (grey, colour):
        assert decode(data, 4)[0, :, 3].tolist() == [255, 0, 255]
        assert decode(data)[0, 1].tolist() == [255, 255, 255]


def test_wide_numbers():
    ramp = np.arange(16).reshape(4, 4)
    stretched = np.rint(ramp * 17.0)
    assert (decode(tiff((ramp * 280_000_000).astype("<u4")))[..., 0] == stretched).all()
    assert (decode(tiff((ramp * -100_000_000).astype("<i4"), 2))[..., 0] == 255 - stretched).all()
    assert (decode(tiff((ramp * 4000).astype("<u4")))[..., 0] == np.rint(ramp * 4000 * 255 / 65535)).all()
    assert (decode(tiff((ramp / 16).astype("<f4"), 3))[..., 0] == np.rint(ramp / 16 * 255)).all()
    assert (decode(tiff((ramp * 3.0 - 7).astype("<f4"), 3))[..., 0] == stretched).all()
    assert (decode(tiff(np.full((4, 4), 9, "<f4"), 3)) == 0).all()
    spoiled = ramp.astype("<f4")
    spoiled[2, 2] = np.nan
    assert "not finite" in refused(tiff(spoiled, 3)).what


def test_alpha_lies_on_the_stated_colour():
    image = Image.new("RGBA", (4, 4), (200, 100, 0, 0))
    image.paste((200, 100, 0, 255), (0, 0, 2, 4))
    for kind in ("PNG", "TIFF", "WEBP"):
        data = stored(image, kind, lossless=kind == "WEBP")
        assert decode(data)[0, 3].tolist() == [255, 255, 255]
        assert decode(data, background=(10, 20, 30))[0, 3].tolist() == [10, 20, 30]
        assert decode(data)[0, 0].tolist() == [200, 100, 0]
        assert decode(data, 4)[0, :, 3].tolist() == [255, 255, 0, 0]
    assert decode(image.convert("LA"), 1)[0, 3].tolist() == [255]
    palette = stored(image.convert("RGBA").quantize(4), "PNG")
    assert decode(palette, background=(10, 20, 30))[0, 3].tolist() == [10, 20, 30]


def test_ink_becomes_light():
    """JPEGs store CMYK inverted, as Adobe does, TIFFs do not; both come out as they look."""
    for kind in ("JPEG", "TIFF"):
        data = stored(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), kind)
        assert read_header(data).mode == "CMYK"
        assert np.abs(decode(data)[3, 3].astype(int) - [255, 0, 0]).max() <= 2


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_mode_of_pillow(mode, channels):
    pixels = decode(Image.new(mode, (5, 4)), channels)
    assert pixels.shape == (4, 5, channels)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous


def test_grey_and_colour():
    colour = decode(Image.new("RGB", (2, 2), (255, 0, 0)), 1)
    assert colour.tolist() == [[[76], [76]]] * 2
    assert decode(Image.new("L", (2, 2), 7)).tolist() == [[[7] * 3] * 2] * 2
    assert decode(Image.new("1", (2, 2), 1), 1).max() == 255
    with pytest.raises(UsageError):
        decode(Image.new("L", (2, 2)), 2)


# D03: upright


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = stored(make_image(), kind, exif=exif, lossless=kind == "WEBP")
    pixels = decode(data)
    assert (pixels == np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))).all()
    plain = np.asarray(make_image())
    by_hand = [
        plain,
        plain[:, ::-1],
        plain[::-1, ::-1],
        plain[::-1],
        plain.swapaxes(0, 1),
        np.rot90(plain, -1),
        np.rot90(plain, 2).swapaxes(0, 1),
        np.rot90(plain),
    ][orientation - 1]
    assert pixels.shape == by_hand.shape
    if kind != "JPEG":
        assert (pixels == by_hand).all()
    facts = read_header(data)
    assert (facts.size, facts.orientation) == (pixels.shape[:2], orientation)


# D04: several frames


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_the_first_frame_is_taken_and_all_are_counted(kind):
    first = Image.new("RGB", (16, 16), (200, 20, 20))
    data = stored(
        first, kind, frames=[Image.new("RGB", (16, 16), (0, 0, 200 - i)) for i in range(2)], lossless=kind == "WEBP"
    )
    assert np.abs(decode(data)[5, 5].astype(int) - [200, 20, 20]).max() <= 2
    assert read_header(data).frames == 3


def test_header(tmp_path):
    (tmp_path / "a").write_bytes(stored(make_image(), "PNG"))
    assert read_header(tmp_path / "a") == ((20, 30), "RGB", 8, 3, 1, 1, "PNG")
    assert read_header(png(1, 1, 16, 0, b"\0\0\0")).bits == 16
    assert read_header(tiff(np.zeros((2, 2), "<f4"), 3)).bits == 32
    with pytest.raises(BadImage, match="is empty"):
        read_header(b"")


# D05: bombs


def bombs() -> dict[str, bytes]:
    small = stored(Image.new("L", (1, 1)), "TIFF")
    gif = stored(Image.new("P", (1, 1)), "GIF")
    webp = stored(Image.new("RGBA", (2, 2)), "WEBP", frames=[Image.new("RGBA", (2, 2), (1, 2, 3, 4))])
    at = webp.index(b"VP8X") + 12  # 24-bit width - 1 and height - 1
    wide = struct.pack("<HHI", 256, 4, 1) + struct.pack("<I", 1)
    return {
        "png 30000": png(30_000, 30_000, 8, 2, b"\0" * 10),
        "png 9000": png(9_000, 9_000, 8, 2, b"\0" * 10),
        "png strip": png(2**31 - 1, 1, 8, 2, b"\0" * 10),
        "gif": gif[:6] + struct.pack("<HH", 65_535, 65_535) + gif[10:],
        "webp": webp[:at] + (15_999).to_bytes(3, "little") * 2 + webp[at + 6 :],
        "tiff": small.replace(wide, struct.pack("<HHII", 256, 4, 1, 2**30)),
        "ico": b"\0\0\1\0\1\0" + b"\0" * 100,
    }


@pytest.mark.parametrize("name", bombs())
def test_bombs_are_refused_from_their_headers(name):
    what = refused(bombs()[name]).what
    assert ("not an image" if name == "ico" else "more than the limit of 64,000,000") in what


def test_both_numbers_are_named():
    assert "81,000,000" in (what := refused(bombs()["png 9000"]).what)
    assert "64,000,000" in what
    assert "limit of 100" in refused(stored(make_image(), "PNG"), limit=100).what


def test_extreme_shapes_are_images():
    for shape in ((1, 1), (1, 65_500), (65_500, 1)):
        assert decode(stored(Image.new("L", shape), "PNG"), 1).shape == (shape[1], shape[0], 1)


# D06: formats by content


@pytest.mark.parametrize(
    "data", [b"<svg xmlns='x'/>", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"%PDF-1.7\n", b"\0\0\0\x18ftypisom" + b"\0" * 40]
)
def test_other_formats_are_refused_and_start_no_program(tmp_path, data):
    seen: list[str] = []
    watching = [True]
    sys.addaudithook(
        lambda event, args: (
            seen.append(event) if watching and event.startswith(("subprocess.", "os.exec", "os.system")) else None
        )
    )
    (tmp_path / "a.jpg").write_bytes(data)
    assert "is not an image" in refused(tmp_path / "a.jpg").what
    watching.clear()
    assert not seen


def test_an_eps_that_pillow_could_open_is_refused():
    refused(stored(make_image(), "EPS"))
    for kind in ("ICO", "TGA", "JPEG2000"):
        refused(stored(make_image(), kind))


def test_heavy_metadata():
    texts = b"".join(chunk(b"tEXt", b"k%d\0v" % i) for i in range(10_000))
    assert decode(png(1, 1, 8, 0, b"\0\7", texts), 1).tolist() == [[[7]]]
    image = stored(make_image(), "JPEG")
    large = b"\xff\xe1\xff\xff" + b"Exif\0\0" + b"\xff" * 65_527
    assert decode(image[:2] + large * 20 + image[2:]).shape == (20, 30, 3)


@pytest.mark.filterwarnings("ignore")  # Pillow warns about damaged metadata
def test_only_bad_image_leaves():
    rng = np.random.default_rng(6)
    seeds = [stored(make_image(16, 16, i), kind) for i, kind in enumerate(FORMATS)]
    seeds += [
        tiff(np.zeros((4, 4), "<f4"), 3),
        stored(make_image().quantize(8), "PNG"),
        stored(make_image().convert("CMYK"), "JPEG"),
    ]
    seeds += [stored(make_image().convert("RGBA"), "WEBP"), stored(Image.fromarray(np.zeros((4, 4), np.uint16)), "PNG")]
    bad = 0
    for i in range(330):
        data = bytearray(seeds[i % len(seeds)])
        for _ in range(rng.integers(1, 6)):
            at = int(rng.integers(min(len(data), 80 if i % 2 else len(data))))
            data[at : at + int(rng.integers(0, 4))] = rng.bytes(int(rng.integers(1, 4)))
        try:
            pixels = decode(bytes(data), channels=(1, 3, 4)[i % 3])
            assert pixels.dtype == np.uint8
        except BadImage:
            bad += 1
        with contextlib.suppress(BadImage):
            read_header(bytes(data))
    assert 30 < bad < 330
