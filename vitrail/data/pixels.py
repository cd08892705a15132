"""An image of Pillow -> uint8 pixels, upright, by the rule of `decode`; converted in strips."""

from collections.abc import Iterator

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from vitrail.data.levels import scale_to_bytes, value_range

STRIP = 2**21  # pixels that are converted at a time: a large image is in memory once as stored and once as returned
BITS = {"1": 1, "I": 32, "F": 32, "I;16": 16, "I;16L": 16, "I;16B": 16, "I;16N": 16}
ORIENTATION = 0x0112
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # by channels


def convert_pixels(image: Image.Image, channels: int, background: tuple[int, int, int]) -> np.ndarray:
    """uint8 [H W channels], upright; converted in strips."""
    scale = value_scale(image) if image.mode in BITS and image.mode != "1" else None
    width, height = image.size
    orientation = read_orientation(image)
    is_plain = image.mode == MODES[channels] == "RGB" and not image.has_transparency_data and orientation == 1
    if is_plain and width * height <= STRIP:
        return np.array(image)
    pixels = np.empty((width, height, channels) if orientation >= 5 else (height, width, channels), np.uint8)
    stored = _as_stored(pixels, orientation)
    for top, strip in split_strips(image):
        stored[top : top + strip.height] = _convert(_to_8bit(strip, *scale) if scale else strip, channels, background)
    return pixels


def turn_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels [H W C] as stored -> upright."""
    if orientation == 1:
        return pixels
    height, width, channels = pixels.shape
    upright = np.empty((width, height, channels) if orientation >= 5 else pixels.shape, np.uint8)
    _as_stored(upright, orientation)[...] = pixels
    return upright


def split_strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Top row and full-width part of the image, from above; a small image is one."""
    width, height = image.size
    rows = max(1, STRIP // width)
    for top in range(0, height, rows):
        yield top, image if rows >= height else image.crop((0, top, width, min(height, top + rows)))


def _convert(image: Image.Image, channels: int, background: tuple[int, int, int]) -> np.ndarray:
    """uint8 [H W channels] of an image of at most 8 bits, as stored."""
    if image.mode == "LAB":
        from PIL import ImageCms

        image = ImageCms.profileToProfile(
            image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )  # type: ignore[assignment]
    transparency = image.info.get("transparency")
    # 16-bit colour: Pillow keeps only the high byte of the pixels
    if image.mode == "RGB" and isinstance(transparency, tuple) and max(transparency) > 255:
        image = image.copy()
        image.info["transparency"] = tuple(v >> 8 for v in transparency)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if channels < 4:
            canvas = Image.new("RGBA", image.size, (*background, 255))
            image = Image.alpha_composite(canvas, image)
    elif image.mode == "L" and channels != 4:
        return np.asarray(image)[:, :, None]  # broadcast to the channels
    if image.mode == "CMYK" or channels == 1:
        image = _as_mode(image, "RGB")
    pixels = np.asarray(_as_mode(image, MODES[channels]))
    return pixels[:, :, None] if channels == 1 else pixels


def _as_mode(image: Image.Image, mode: str) -> Image.Image:
    """`convert` copies also what has the mode."""
    return image if image.mode == mode else image.convert(mode)


def count_pixels(image: Image.Image, channels: int, background: tuple[int, int, int]) -> np.ndarray:
    """How often each level is in each channel of `convert_pixels`: int64 [channels 256]. Pillow counts plain images as
    they are, without an array of their pixels."""
    counts = np.zeros((channels, 256), np.int64)
    is_plain = image.mode in ("L", "RGB") and not image.has_transparency_data and channels in (1, 3)
    if is_plain and channels >= len(image.getbands()):
        counts[:] = np.reshape(image.histogram(), (-1, 256))  # of grey, for all channels
        return counts
    pixels = convert_pixels(image, channels, background)
    rows = max(1, STRIP // pixels.shape[1])
    for top in range(0, len(pixels), rows):
        part = pixels[top : top + rows]
        counts += np.reshape(Image.fromarray(part[:, :, 0] if channels == 1 else part).histogram(), (channels, 256))
    return counts


def read_values(image: Image.Image, white_is_zero: bool, unsigned: bool) -> np.ndarray:
    """The numbers [H W] of a grey image of more than 8 bits."""
    values = np.asarray(image)
    if unsigned:
        values = values.view(np.uint32)  # Pillow reads unsigned numbers as signed ones
    return 65535 - values if white_is_zero else values  # Pillow inverts it for 8 bits only


def value_scale(image: Image.Image) -> tuple[bool, bool, float, float]:
    """How the numbers of a grey image of more than 8 bits are read: white is zero, unsigned, and the values that become
    0 and 255."""
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    unsigned = image.mode == "I" and tags.get(258) == (32,) and tags.get(339, (1,)) == (1,)
    white_is_zero = image.mode.startswith("I;16") and tags.get(262) == 0
    ends = []
    for _, strip in split_strips(image):
        values = read_values(strip, white_is_zero, unsigned)
        ends += [values.min(), values.max()]
    return white_is_zero, unsigned, *value_range(values.dtype.newbyteorder("="), np.min(ends), np.max(ends))


def _to_8bit(image: Image.Image, white_is_zero: bool, unsigned: bool, low: float, high: float) -> Image.Image:
    """A grey image of more than 8 bits as L, or as LA where one value means transparent."""
    values = read_values(image, white_is_zero, unsigned)
    grey = Image.fromarray(scale_to_bytes(values, low, high))
    transparency = image.info.get("transparency")
    if isinstance(transparency, int):
        grey.putalpha(Image.fromarray(np.where(values == transparency, 0, 255).astype(np.uint8)))
    return grey


def read_orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged EXIF leaves the pixels readable
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _as_stored(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """A view of upright pixels [H W C] in the order in which the file stores them: `orientation` defines where row 0
    and column 0 of the stored image belong (EXIF 2.32, 4.6.4)."""
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels.swapaxes(0, 1) if orientation in (5, 6, 7, 8) else pixels
