"""Decodes bytes of an allow-listed image format to uint8 pixels, by the rule below; raises `BadImage` otherwise."""

import contextlib
import io
import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from vitrail.data.formats import AGAIN, open_image
from vitrail.data.jpeg import decode_jpeg
from vitrail.data.pixels import (
    BITS,
    convert_pixels,
    count_pixels,
    read_orientation,
    read_values,
    split_strips,
    turn_upright,
    value_scale,
)
from vitrail.data.stderr import GATE
from vitrail.errors import BadImage, UsageError

LIMIT = 64_000_000  # pixels
HEAVY = ("WEBP", "AVIF", "HEIF")  # formats whose decoders keep an image several times: half the limit
GREY = {"1", "L", "LA", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"}
BACKGROUND = (255, 255, 255)
NAMELESS = "the input"  # name of bytes in messages


class Header(NamedTuple):
    """Metadata from the header of an image.

    size: (height, width) in pixels, upright. mode: Pillow's name of the pixel type. bits: of one channel as stored.
    channels: as stored, a palette counts as colour. frames: images in the file. orientation: EXIF 1-8. format: one of
    `COMMON` in `formats`, AVIF or HEIF.
    """

    size: tuple[int, int]
    mode: str
    bits: int
    channels: int
    frames: int
    orientation: int
    format: str


def decode(
    source: Path | bytes | Image.Image,
    channels: int = 3,
    limit: int = LIMIT,
    background: tuple[int, int, int] = BACKGROUND,
    least: int = 0,
) -> np.ndarray:
    """The image as uint8 [H W C], upright, C in {1, 3, 4}. Raises only `BadImage`, whatever the bytes are.

    The rule, by what is stored:
    - 1, L, LA, palette, RGB, RGBA, YCbCr, LAB: to RGB as the format defines; no colour profile is applied.
    - CMYK: R = 255 - min(255, C + K), likewise G and B; in a JPEG the four channels are stored inverted (Adobe) and
      inverted back first.
    - 16-bit grey: v * 255 / 65535, rounded, in either byte order; 16-bit colour: the high byte (within one level).
    - 32-bit integers: as 16-bit where all lie in 0..65535, otherwise the range of the image is stretched to 0..255.
    - floats: times 255 where all lie in [0, 1], otherwise stretched likewise; NaN or infinity raises `BadImage`.
      Nothing is clipped.
    - alpha, or a transparent colour: composited on `background` (R, G, B in 0..255) for 1 and 3 channels, kept for 4.
    - 1 channel from colour: 0.299 R + 0.587 G + 0.114 B. 3 and 4 from grey: repeated.
    - the first of several frames; the EXIF orientation is applied.

    limit: pixels (half as many for WebP, AVIF and HEIF, whose decoders take more memory); a larger image is rejected by
    its header, before any pixel is decoded. A truncated file is rejected.

    least: where it is not 0, a JPEG of grey or colour is decoded at an eighth, a quarter or half of its size, the
    smallest whose shorter side has so many pixels; libjpeg computes fewer of them then, and others than a resized whole
    image has.
    """
    if channels not in (1, 3, 4):
        raise UsageError(f"an image cannot be decoded to {channels} channels", "channels is 1, 3 or 4")
    name = str(source) if isinstance(source, Path) else NAMELESS
    try:
        if isinstance(source, Image.Image):
            data, image = b"", source
        else:
            data = source if isinstance(source, bytes) else read_bytes(source, limit)
            image = open_image(io.BytesIO(data), data[:64])
            _check_whole(image.format or "", data)
        _check_size(image, limit)
        if least and image.format == "JPEG" and image.mode in ("L", "RGB"):
            image.draft(None, (least, least))
        elif data and (pixels := decode_jpeg(data, image, channels)) is not None:
            return turn_upright(pixels, read_orientation(image))
        _load(image)
        return convert_pixels(image, channels, background)
    except Exception as error:  # Pillow raises OSError, ValueError, SyntaxError, struct.error and its own exceptions
        raise _bad_image(name, error, limit) from None


def count_levels(data: bytes, channels: int = 3) -> np.ndarray:
    """How often each level 0 to 255 is in each channel of `decode(data, channels)`: int64 [channels 256], in much less
    time than it takes to count its pixels. Raises `BadImage` as `decode` does."""
    try:
        image = open_image(io.BytesIO(data), data[:64])
        _check_whole(image.format or "", data)
        _check_size(image, LIMIT)
        _load(image)
        return count_pixels(image, channels, BACKGROUND)
    except Exception as error:
        raise _bad_image(NAMELESS, error, LIMIT) from None


def read_header(source: Path | bytes) -> Header:
    """The header of a file; no pixel is decoded. Raises `BadImage` as `decode` does, but not for damage behind it."""
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
            start = file.read(64)
            file.seek(0)
            image = open_image(file, start)
            width, height = image.size
            # Pillow swaps a TIFF's size by itself; reading EXIF stored behind a PNG's pixels would decode them
            late = image.format == "PNG" and "exif" not in image.info
            orientation = 1 if late else read_orientation(image)
            if orientation >= 5 and image.format != "TIFF":
                width, height = height, width
            mode = image.mode
            bands = 3 + image.has_transparency_data if mode in ("P", "PA") else len(image.getbands())
            kind = "JPEG" if image.format == "MPO" else str(image.format)
            frames = getattr(image, "n_frames", 1)  # an attribute of the formats that can hold several
            return Header((height, width), mode, _stored_bits(image, start), bands, frames, orientation, kind)
    except Exception as error:
        raise _bad_image(NAMELESS if isinstance(source, bytes) else str(source), error, LIMIT) from None


def highest_value(data: bytes) -> float:
    """The highest value of an image of more than 8 bits as a fraction of the range that is read as 0 to 255. Raises
    `BadImage`."""
    try:
        image = open_image(io.BytesIO(data), data[:64])
        if image.mode not in BITS:  # 16-bit colour, of which Pillow keeps the high bytes
            return float(decode(data).max()) / 255
        _load(image)
        white_is_zero, unsigned, low, high = value_scale(image)
        top = max(read_values(strip, white_is_zero, unsigned).max() for _, strip in split_strips(image))
        return (float(top) - low) / (high - low) if high > low else 0.0
    except Exception as error:
        raise _bad_image(NAMELESS, error, LIMIT) from None


def read_bytes(path: Path, limit: int = LIMIT) -> bytes:
    """The bytes of a file; raises `BadImage` for more than an image can take, and `OSError`."""
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit * 16 + 2**24:  # four channels of 32 bits, and room for metadata
            raise BadImage(f"is a file of {size:,} bytes, more than an image of {limit:,} pixels can take", AGAIN)
        return file.read()


def _load(image: Image.Image) -> None:
    """Decodes the pixels. Of a damaged TIFF libtiff prints lines of its own, which are kept off the terminal."""
    with GATE.closed() if isinstance(image, TiffImageFile) else contextlib.nullcontext():
        image.load()


def _check_size(image: Image.Image, limit: int) -> None:
    width, height = image.size
    limit = limit // 2 if image.format in HEAVY else limit
    if width < 1 or height < 1:
        raise BadImage(f"has no pixels: {width} x {height}", AGAIN)
    if width * height > limit:
        raise BadImage(
            f"has {width * height:,} pixels ({width} x {height}), more than the limit of {limit:,}", "make it smaller"
        )


def _check_whole(kind: str, data: bytes) -> None:
    """Rejects files that lack only their last bytes, after all pixels; Pillow detects every other truncation."""
    whole = {
        "PNG": b"IEND\xaeB`\x82" in data[-(2**20) :],  # some programs append data after it
        "GIF": b"\0;" in data[-64:],
        "WEBP": len(data) >= 8 + int.from_bytes(data[4:8], "little"),
    }
    if not whole.get(kind, True):
        raise BadImage("is truncated: its last bytes are missing", AGAIN)


def _stored_bits(image: Image.Image, start: bytes) -> int:
    if image.format == "PNG" and start[12:16] == b"IHDR":
        return start[24]
    if isinstance(image, TiffImageFile):
        return max(image.tag_v2.get(258, (1,)))
    return BITS.get(image.mode, 8)


def _bad_image(name: str, error: Exception, limit: int) -> BadImage:
    """The error with the name of the file, in our words instead of Pillow's."""
    text = str(error)
    if isinstance(error, BadImage):
        return BadImage(f"{name} {error.what}", error.fix)
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        count = re.search(r"\d+", text)
        limit = min(limit, 2 * (Image.MAX_IMAGE_PIXELS or limit))  # Pillow has a limit of its own
        return BadImage(
            f"{name} has {int(count[0]) if count else 0:,} pixels, more than the limit of {limit:,}", "make it smaller"
        )
    if isinstance(error, FileNotFoundError):
        return BadImage(f"{name} does not exist", "check the path")
    if isinstance(error, OSError) and error.strerror:
        return BadImage(
            f"{name} cannot be read: {error.strerror.lower()}", "check that it is a file and that you may read it"
        )
    if isinstance(error, MemoryError):
        return BadImage(f"{name} needs more memory than there is", "make it smaller")
    if re.search("truncated|incomplete|broken data stream|unexpected end|not enough", text, re.IGNORECASE):
        return BadImage(f"{name} is truncated or damaged", AGAIN)
    return BadImage(f"{name} is damaged: {(text.splitlines() or [type(error).__name__])[0][:120]}", AGAIN)
