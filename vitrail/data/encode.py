"""Encodes pixels: to RGB, and to the bytes of a PNG."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

STRIP = 2**22  # bytes that are filtered at a time
SIGNATURE, NO_FILTER, UP = b"\x89PNG\r\n\x1a\n", 0, 2  # of PNG's specification
GREY, COLOUR, PALETTE = 0, 2, 3  # its colour types


def to_rgb(pixels: np.ndarray) -> np.ndarray:
    """uint8 [H W C] or [H W] -> [H W 3]; grey is repeated, channels after the third are dropped."""
    deep = pixels[:, :, None] if pixels.ndim == 2 else pixels
    return np.repeat(deep[:, :, :1], 3, axis=2) if deep.shape[2] < 3 else np.ascontiguousarray(deep[:, :, :3])


def encode_png(pixels: np.ndarray | Image.Image, fast: bool = False) -> bytes:
    """uint8 [H W] or [H W 3], or a Pillow image, whose palette is kept. fast, of an array: in an eighth of the time; a
    photograph is 8 % larger then."""
    if fast and isinstance(pixels, np.ndarray):
        return write_png(pixels)
    buffer = io.BytesIO()
    image = Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
    image.save(buffer, "PNG")
    return buffer.getvalue()


def write_png(pixels: np.ndarray, palette: np.ndarray | None = None) -> bytes:
    """uint8 [H W], [H W 1] or [H W 3] -> a PNG; with a palette, uint8 [256 3], [H W] are its indices.

    Each row is stored as its difference from the one above, indices as they are, by runs: Pillow tries five filters for
    each row, which takes longer than all else.
    """
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, -1)
    kind = PALETTE if palette is not None else GREY if rows.shape[1] == width else COLOUR
    packer = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    some = max(1, STRIP // (rows.shape[1] + 1))
    parts = [
        packer.compress(filter_rows(rows, start, start + some, palette is None).data)
        for start in range(0, height, some)
    ]
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0))]
    if palette is not None:
        chunks.append((b"PLTE", palette.tobytes()))
    chunks += [(b"IDAT", b"".join([*parts, packer.flush()])), (b"IEND", b"")]
    return SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(name)))
        for name, data in chunks
    )


def filter_rows(rows: np.ndarray, start: int, end: int, up: bool) -> np.ndarray:
    """Rows [H n] from `start` to `end` as PNG stores them, [h n+1]: each after the number of its filter."""
    some = rows[start:end]
    filtered = np.empty((len(some), rows.shape[1] + 1), np.uint8)
    filtered[:, 0], filtered[:, 1:] = UP if up else NO_FILTER, some
    if up:
        filtered[int(start == 0) :, 1:] -= rows[max(start - 1, 0) : start + len(some) - 1]
    return filtered
