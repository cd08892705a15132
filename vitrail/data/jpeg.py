"""JPEGs by torchvision's decoder, where torch is loaded already: Pillow's pixels without the copies it makes of them.

Both decode by libjpeg-turbo, and what one accepts comes out the same from the other. Whatever torchvision refuses, and
whatever is not plain grey or colour, is left to Pillow, whose errors have our words (`decode`).
"""

import sys
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from vitrail.data.stderr import GATE

SMALLEST = 40_000  # pixels: below that, keeping libjpeg's warnings off the terminal takes longer than the copies
READ_MODES = {1: 1, 3: 3}  # channels -> torchvision's `ImageReadMode`, GRAY and RGB


def decode_jpeg(data: bytes, header: Image.Image, channels: int) -> np.ndarray | None:
    """uint8 [H W channels] as stored, or None where Pillow is to decode it. header: the image, of which Pillow has read
    the header only; its size was checked."""
    width, height = header.size
    is_plain = header.format == "JPEG" and (header.mode, channels) in (("L", 1), ("L", 3), ("RGB", 3))
    if not is_plain or width * height < SMALLEST or "torch" not in sys.modules:
        return None
    try:
        decoder = load_decoder()
        if decoder is None:
            return None
        with GATE.closed():
            pixels = decoder(data, READ_MODES[channels])
    except (RuntimeError, AttributeError, ImportError):  # refused; or another thread is importing torch just now
        return None
    return pixels if pixels.shape == (height, width, channels) else None


@cache
def load_decoder() -> Callable[[bytes, int], np.ndarray] | None:
    """The bytes of a JPEG and a mode -> uint8 [H W C]; None where torchvision has no such operator, which it is to
    lose. Only its library is loaded, in 2 ms: importing the package takes as long as importing torch."""
    import torch

    package = find_spec("torchvision")
    try:
        library = next(Path(package.origin or "").parent.glob("image*.so")) if package else Path()
        torch.ops.load_library(str(library))
        decoder = torch.ops.image.decode_jpeg.default
    except (StopIteration, OSError, RuntimeError, AttributeError):
        return None

    def decode(data: bytes, mode: int) -> np.ndarray:
        tensor = torch.frombuffer(bytearray(data), dtype=torch.uint8)  # which warns of bytes: they cannot be written
        return decoder(tensor, mode, False).permute(1, 2, 0).numpy()

    return decode
