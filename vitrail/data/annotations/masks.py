"""Masks: images whose pixel values or colours stand for classes, read as stored: no change of colour or size."""

import io
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vitrail.data.dataset import IGNORE
from vitrail.data.decode import LIMIT, _bad_image, _check_size, _check_whole, read_bytes, read_header
from vitrail.data.formats import open_image
from vitrail.data.subset import evenly_spaced
from vitrail.errors import BadImage, DataError

TABLES = ("classes.txt", "classes.csv", "labelmap.txt", "class_dict.csv", "label_colors.txt")
IGNORED = {"ignore", "ignored", "void"}  # names of classes that are ignored
MAX_CLASSES = 255  # classes of an 8-bit mask beside the ignored value
MAX_SAMPLE = 4096  # masks that are read to list the values
FIT_SAMPLE = 64  # masks that decide how a table applies
LARGEST_TABLE = 2**20  # bytes
TABLE_LINES = "a line is: name, or index,name, or name,red,green,blue"
UNKNOWN = -1
COLOUR = np.uint32  # dtype of colour masks, and of no others
GREY_MODES = {"1", "L", "LA", "P", "PA", "I", "I;16", "I;16L", "I;16B", "I;16N"}


class MaskClasses(NamedTuple):
    """The classes of mask values.

    names: of class 0, 1, ... codes: int16 [256]: grey value or palette index -> class, `IGNORE`, or `UNKNOWN`.
    colours: 0xRRGGBB -> class or `IGNORE`, for masks in colour; None where there are none.
    """

    names: tuple[str, ...]
    codes: np.ndarray
    colours: dict[int, int] | None = None


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
        values = read_values(path, self.classes.colours is not None)
        height, width = read_header(self.root / self.images[index]).size
        if values.shape[:2] != (height, width):
            size = f"{values.shape[0]} x {values.shape[1]} (height x width)"
            raise BadImage(
                f"{path} is {size}, its image {self.images[index]} {height} x {width}",
                "a mask has the size of its image; resize it with nearest-neighbour interpolation",
            )
        return to_classes(path, values, self.classes)


def read_values(path: Path, coloured: bool = False) -> np.ndarray:
    """A mask as stored: integers [H W], such as palette indices, or uint32 0xRRGGBB [H W] for a colour mask.

    coloured: read the colours of a palette, not its indices. A colour mask with grey pixels only is read as grey; a bit
    is 0 or 255. Raises only `BadImage`.
    """
    try:
        data = read_bytes(path, LIMIT)
        image = open_image(io.BytesIO(data), data[:64])
        _check_whole(image.format or "", data)
        _check_size(image, LIMIT)
        if image.format in ("JPEG", "MPO"):
            raise BadImage(
                "is a JPEG, whose compression alters values", "store masks as PNG; with two classes, threshold at 128"
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
    if (colour[..., 0] == colour[..., 1]).all() and (colour[..., 1] == colour[..., 2]).all():
        return colour[..., 0].astype(np.uint8)
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
        rows = [r for r in sorted(rows, key=lambda r: r[1] or 0) if not (shift and r[1] == 0) and r[1] != IGNORE]
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


def fits(masks: Sequence[Path], classes: MaskClasses, coloured: bool) -> bool:
    """Whether all `masks` can be read with these classes."""
    try:
        for mask in masks:
            to_classes(mask, read_values(mask, coloured=coloured), classes)
        return True
    except BadImage:
        return False


def fit_classes(classes: MaskClasses, masks: Sequence[Path], shift: int) -> MaskClasses:
    """The classes of a table as the masks use them: grey values as line numbers, or 0 and 255 for two names."""
    if classes.colours is not None:
        sample = [masks[i] for i in evenly_spaced(len(masks), FIT_SAMPLE)]
        numbered = number_classes(classes.names, shift)
        if not fits(sample, classes, True) and fits(sample, numbered, False):
            return numbered
    elif len(classes.names) == 2 and not shift:
        detected, _ = detect_classes(masks, shift)
        if detected.colours is None and detected.codes[IGNORE] == 1:
            return MaskClasses(classes.names, detected.codes)
    return classes


def detect_classes(paths: Sequence[Path], shift: int) -> tuple[MaskClasses, list[str]]:
    """The classes by the values of the masks, and notes: 0 and 255 alone are two classes, otherwise 255 is ignored.

    Errors: `DataError` where the values are no classes. Unreadable masks are reported where they are read.
    """
    sample = evenly_spaced(len(paths), MAX_SAMPLE)
    with ThreadPoolExecutor() as pool:
        per_mask = list(pool.map(lambda i: distinct_values(paths[i]), sample))
    if all(f is None for f in per_mask):
        read_values(paths[0])  # raises the error
    notes = [f"classes are the values in {len(sample):,} masks; classes.txt, one name a line, would name them"]
    colour = any(f is not None and f[0] for f in per_mask)
    values = sorted({v * 0x010101 if colour and not f[0] else v for f in per_mask if f is not None for v in f[1]})
    if len(values) - (IGNORE in values) > MAX_CLASSES:
        raise DataError(
            f"{paths[0].parent}: the masks have {len(values):,} different values", "mask values are class numbers"
        )
    if colour:
        return MaskClasses(
            tuple(f"#{v:06x}" for v in values), number_classes(()).codes, {v: i for i, v in enumerate(values)}
        ), notes
    if values == [0, IGNORE] and not shift:
        codes = number_classes(("background", "foreground")).codes
        codes[1], codes[IGNORE] = UNKNOWN, 1
        return MaskClasses(("background", "foreground"), codes), [
            *notes,
            "the values of the masks are 0 and 255: 255 is the second class",
        ]
    class_values = [v for v in values if v != IGNORE and not (shift and v == 0)]
    if class_values and not 0 <= class_values[0] <= class_values[-1] < IGNORE:
        invalid = class_values[-1] if class_values[0] >= 0 else class_values[0]
        raise DataError(f"{paths[0].parent}: the masks have the value {invalid}", "values are 0 to 255")
    codes = number_classes((), shift).codes
    codes[class_values] = np.arange(len(class_values))
    return MaskClasses(tuple(map(str, class_values)), codes), notes


def distinct_values(path: Path) -> tuple[bool, list[int]] | None:
    """Whether a mask is in colour, and its distinct values; None where it cannot be read."""
    try:
        values = read_values(path)
    except BadImage:
        return None
    distinct = (
        np.flatnonzero(np.bincount(values.ravel(), minlength=256)) if values.dtype == np.uint8 else np.unique(values)
    )
    return values.dtype == COLOUR, [int(v) for v in distinct[: MAX_CLASSES * 16]]
