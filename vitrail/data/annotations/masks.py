"""Masks: images whose pixel values or colours stand for classes, read as stored: no change of colour or size."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vitrail.data.dataset import IGNORE
from vitrail.data.decode import LIMIT, _bad_image, _check_size, _check_whole, read_bytes, read_header
from vitrail.data.formats import open_image
from vitrail.errors import BadImage, DataError

TABLES = ("classes.txt", "classes.csv", "labelmap.txt", "class_dict.csv", "label_colors.txt")
IGNORED = {"ignore", "ignored", "void"}  # names of classes that are ignored
IGNORED_LAST = {"border", "boundary", "edge", "unlabeled", "unlabelled", "unknown", "dontcare"}  # the same of 255
MAX_CLASSES = 255  # classes of an 8-bit mask beside the ignored value
JPEG_SPREAD = 24  # between the channels of a grey pixel that went through a JPEG in colour
LARGEST_TABLE = 2**20  # bytes
TABLE_LINES = "a line is: name, or index,name, or name,red,green,blue"
UNKNOWN = -1
COLOUR = np.uint32  # dtype of colour masks, and of no others
GREY_MODES = {"1", "L", "LA", "P", "PA", "I", "I;16", "I;16L", "I;16B", "I;16N"}


class MaskClasses(NamedTuple):
    """The classes of mask values.

    names: of class 0, 1, ... codes: int16 [256]: grey value or palette index -> class, `IGNORE`, or `UNKNOWN`.
    colours: 0xRRGGBB -> class or `IGNORE`, for masks in colour; None where there are none. two_valued: grey values from
    a threshold on are the second class, those below the first, so that JPEGs do no harm.
    """

    names: tuple[str, ...]
    codes: np.ndarray
    colours: dict[int, int] | None = None
    two_valued: bool = False


@dataclass(frozen=True)
class MaskReader:
    """Reads the mask of image i: uint8 [H W] of class indices and `IGNORE`. Raises `BadImage`; sizes must match.

    masks, images: paths below `root`.
    """

    root: Path
    masks: Sequence[str]
    images: Sequence[str]
    classes: MaskClasses

    def __call__(self, index: int) -> np.ndarray:
        path = self.root / self.masks[index]
        values = read_values(path, self.classes.colours is not None, self.classes.two_valued)
        height, width = read_header(self.root / self.images[index]).size
        if values.shape[:2] != (height, width):
            size = f"{values.shape[0]} x {values.shape[1]} (height x width)"
            raise BadImage(
                f"{path} is {size}, its image {self.images[index]} {height} x {width}",
                "a mask has the size of its image; resize it with nearest-neighbour interpolation",
            )
        return to_classes(path, values, self.classes)


def read_values(path: Path, coloured: bool = False, allow_jpeg: bool = False) -> np.ndarray:
    """A mask as stored: integers [H W], such as palette indices, or uint32 0xRRGGBB [H W] for a colour mask.

    coloured: read the colours of a palette, not its indices. A colour mask with grey pixels only is read as grey; a bit
    is 0 or 255. allow_jpeg: for masks of two values, which survive compression. Raises only `BadImage`.
    """
    try:
        data = read_bytes(path, LIMIT)
        image = open_image(io.BytesIO(data), data[:64])
        _check_whole(image.format or "", data)
        _check_size(image, LIMIT)
        is_jpeg = image.format in ("JPEG", "MPO")
        if is_jpeg and not allow_jpeg:
            raise BadImage(
                "is a JPEG, whose compression alters values",
                "store masks as PNG; for two classes, --data.threshold 128 reads them",
            )
        image.load()
        if coloured and image.mode in ("P", "PA"):
            image = image.convert("RGB")
        if image.mode in GREY_MODES:
            values = np.asarray(image)
            values = values[..., 0] if values.ndim == 3 else values  # alpha carries no classes
            if values.dtype == bool:
                return values.astype(np.uint8) * 255
            return values if values.dtype == np.uint8 else values.astype(np.int64)
        if image.mode not in ("RGB", "RGBA"):
            raise BadImage(f"has the pixel mode {image.mode}", "a mask is grey, has a palette, or is RGB")
        colour = np.asarray(image)[..., :3].astype(np.uint32)
    except Exception as error:
        raise _bad_image(str(path), error, LIMIT) from None
    if int(np.ptp(colour, axis=2).max(initial=0)) <= (JPEG_SPREAD if is_jpeg else 0):
        return colour[..., 1].astype(np.uint8)
    return colour[..., 0] << 16 | colour[..., 1] << 8 | colour[..., 2]


def to_classes(path: Path, values: np.ndarray, classes: MaskClasses) -> np.ndarray:
    """Stored values as uint8 class indices. Errors: `BadImage` for a value without a class."""
    if classes.colours is not None:
        stored = values if values.dtype == COLOUR else values.astype(COLOUR) * 0x010101
        colours = np.array(sorted(classes.colours), COLOUR)
        positions = np.searchsorted(colours, stored).clip(max=len(colours) - 1)
        if (unknown := colours[positions] != stored).any():
            raise BadImage(
                f"{path} has the colour {format_color(int(stored[unknown][0]))}, which is no class",
                "add it to the table",
            )
        return np.array([classes.colours[int(v)] for v in colours], np.uint8)[positions]
    if values.dtype == COLOUR:
        raise BadImage(f"{path} is in colour, and no table maps colours to classes", f"add classes.txt: {TABLE_LINES}")
    if values.size and not 0 <= int(values.min()) <= int(values.max()) <= IGNORE:
        raise BadImage(
            f"{path} has the value {values.max() if values.min() >= 0 else values.min()}",
            "values of a mask are 0 to 255",
        )
    indices = classes.codes[values]
    if (indices == UNKNOWN).any():
        value = int(values[indices == UNKNOWN][0])
        raise BadImage(
            f"{path} has the value {value}, which is no class",
            f"there are {len(classes.names)} classes; 255 is ignored",
        )
    return indices.astype(np.uint8)


def format_color(colour: int) -> str:
    return f"{colour >> 16},{colour >> 8 & 255},{colour & 255}"


def number_classes(names: Sequence[str], shift: int = 0) -> MaskClasses:
    """Value i + shift is class i; smaller values are ignored."""
    codes = np.full(256, UNKNOWN, np.int16)
    codes[:shift] = IGNORE
    codes[shift : shift + len(names)] = np.arange(len(names))
    codes[IGNORE] = IGNORE
    return MaskClasses(tuple(names), codes)


def find_class_table(folders: Sequence[Path], shift: int) -> tuple[MaskClasses, Path] | None:
    """The classes of the first table in `folders`, and its path. Errors: `DataError` with the line number."""
    path = next((f / name for f in folders for name in TABLES if (f / name).is_file()), None)
    if path is None:
        return None
    rows = table_rows(path)
    forms = {(index is None, colour is None) for _, index, colour in rows}
    if len(forms) > 1:
        raise DataError(f"{path}: some lines have numbers, others none", TABLE_LINES)
    if not rows:
        raise DataError(f"{path} names no classes", TABLE_LINES)
    if rows[0][2] is None and rows[0][1] is None:
        in_order = [name for name, _, _ in rows]
        return number_classes(in_order, shift), path
    if rows[0][2] is None:
        rows = [r for r in sorted(rows, key=lambda r: r[1] or 0) if not (shift and r[1] == 0)]
        rows = [r for r in rows if r[1] != IGNORE or r[0].lower().replace(" ", "") not in IGNORED_LAST]
    names = [name for name, _, _ in rows if name.lower() not in IGNORED]
    if len(set(names)) < len(names):
        raise DataError(f"{path}: two classes have the same name", "give each class a name of its own")
    code = {name: names.index(name) if name in names else IGNORE for name, _, _ in rows}
    if rows[0][2] is not None:
        return MaskClasses(
            tuple(names),
            number_classes(()).codes,
            {colour: code[name] for name, _, colour in rows if colour is not None},
        ), path
    codes = number_classes((), shift).codes
    for name, index, _ in rows:
        codes[index] = code[name]
    return MaskClasses(tuple(names), codes), path


def table_rows(path: Path) -> list[tuple[str, int | None, int | None]]:
    """Name, index or None, and colour or None, of each line."""
    if path.stat().st_size > LARGEST_TABLE:
        raise DataError(f"{path} is too large for a table of classes", TABLE_LINES)
    rows: list[tuple[str, int | None, int | None]] = []
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        if not (text := line.partition("#")[0].strip() if "," in line or line.startswith("#") else line.strip()):
            continue
        name, numbers = split_fields(text)
        if (
            not rows
            and not numbers
            and name.replace(" ", "").lower() in ("name", "class", "label", "namergb", "classname", "indexname")
        ):
            continue  # a header line
        if len(numbers) not in (0, 1, 3, 4) or not name or any(not 0 <= n <= IGNORE for n in numbers):
            raise DataError(f"{path}, line {number}: {text[:60]!r} is not a class", TABLE_LINES)
        red, green, blue = numbers[-3:] if len(numbers) >= 3 else (0, 0, 0)
        colour = (red << 16 | green << 8 | blue) if len(numbers) >= 3 else None
        rows.append((name, numbers[0] if len(numbers) == 1 else None, colour))
    if len(rows) > MAX_CLASSES:
        raise DataError(
            f"{path} names {len(rows)} classes", f"an 8-bit mask has room for {MAX_CLASSES} and the ignored value"
        )
    return rows


def split_fields(text: str) -> tuple[str, list[int]]:
    """A line's name, which may contain spaces, and its integers. Spaces separate numbers from names only where there is
    no other separator, and then "class 2" is a name."""
    pieces = [p.strip() for p in re.split(r"[,;:\t]", text) if p.strip()]
    if len(pieces) == 1 and (match := re.fullmatch(r"(?:(\d+(?: +\d+ +\d+)?) +)?(.+)", text)):
        colour = re.fullmatch(r"(.+?) +(\d+) +(\d+) +(\d+)", match[2])
        name, tail = (colour[1], list(colour.groups()[1:])) if colour else (match[2], [])
        return name, [int(n) for n in [*(match[1] or "").split(), *tail]]
    numbers = [p for p in pieces if re.fullmatch(r"[\d ]+", p)]
    return " ".join(p for p in pieces if p not in numbers), [int(n) for p in numbers for n in p.split()]
