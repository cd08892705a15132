"""Masks: images whose pixels are numbers, or colours, of classes. Read as they are stored, without any change of colour or size."""

import io
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vitrail.data.dataset import IGNORE
from vitrail.data.decode import LIMIT, _bad, _check_size, _check_whole, _contents, _open, read_header
from vitrail.data.subset import evenly_spaced
from vitrail.errors import BadImage, DataError

TABLES = ("classes.txt", "classes.csv", "labelmap.txt", "class_dict.csv", "label_colors.txt")
IGNORED = {"ignore", "ignored", "void"}  # classes of these names count for nothing
MAX_CLASSES = 255  # classes that fit a mask beside the ignored value
LOOKED_AT = 4096  # masks that are read to find out which values there are
SAMPLE = 64  # masks that decide how they are meant
LARGEST_TABLE = 2**20  # bytes
TABLE_LINES = "a line is: name, or index,name, or name,red,green,blue"
UNKNOWN = -1
COLOUR = np.uint32  # the type of a mask in colour, and of no other
GREY_MODES = {"1", "L", "LA", "P", "PA", "I", "I;16", "I;16L", "I;16B", "I;16N"}


class MaskClasses(NamedTuple):
    """What the values of masks mean.

    names: of class 0, 1, ... codes: int16 [256]: grey value or palette index -> class, `IGNORE`, or `UNKNOWN`.
    colours: 0xRRGGBB -> class or `IGNORE`, for masks in colour; None where there are none.
    """

    names: tuple[str, ...]
    codes: np.ndarray
    colours: dict[int, int] | None = None


@dataclass(frozen=True)
class MaskReader:
    """Reads the mask of image i: uint8 [H W] of class indices and `IGNORE`. Raises `BadImage`, also where its size is not the image's.

    masks, images: paths below `root`.
    """

    root: Path
    masks: Sequence[str]
    images: Sequence[str]
    classes: MaskClasses

    def __call__(self, index: int) -> np.ndarray:
        path = self.root / self.masks[index]
        found = read_values(path, self.classes.colours is not None)
        height, width = read_header(self.root / self.images[index]).size
        if found.shape[:2] != (height, width):
            what = f"{path} is {found.shape[0]} x {found.shape[1]} (height x width), its image {self.images[index]} {height} x {width}"
            raise BadImage(what, "a mask has the size of its image; resize it to the nearest value, never smoothly")
        return to_classes(path, found, self.classes)


def read_values(path: Path, coloured: bool = False) -> np.ndarray:
    """A mask as it is stored: whole numbers [H W], palette indices among them, or uint32 0xRRGGBB [H W] where it is in colour.

    coloured: the colours of a palette are meant, not their numbers. A colour mask that is grey all over counts as grey. A bit is 0 or 255.
    Raises `BadImage` and nothing else.
    """
    try:
        data = _contents(path, LIMIT)
        image = _open(io.BytesIO(data), data[:64])
        _check_whole(image.format or "", data)
        _check_size(image, LIMIT)
        if image.format in ("JPEG", "MPO"):
            raise BadImage(
                "is a JPEG, which changes the values at every edge", "store masks as PNG; of two classes, cut at 128"
            )
        image.load()
        if coloured and image.mode in ("P", "PA"):
            image = image.convert("RGB")
        if image.mode in GREY_MODES:
            found = np.asarray(image)
            found = found[..., 0] if found.ndim == 3 else found  # an alpha says nothing of classes
            if found.dtype == bool:
                return found.astype(np.uint8) * 255
            return found if found.dtype == np.uint8 else found.astype(np.int64)
        if image.mode not in ("RGB", "RGBA"):
            raise BadImage(f"has pixels of the kind {image.mode}", "a mask is grey, has a palette, or is in RGB")
        colour = np.asarray(image)[..., :3].astype(np.uint32)
    except Exception as error:
        raise _bad(str(path), error, LIMIT) from None
    if (colour[..., 0] == colour[..., 1]).all() and (colour[..., 1] == colour[..., 2]).all():
        return colour[..., 0].astype(np.uint8)
    return colour[..., 0] << 16 | colour[..., 1] << 8 | colour[..., 2]


def to_classes(path: Path, found: np.ndarray, classes: MaskClasses) -> np.ndarray:
    """Stored values as uint8 class indices. Errors: `BadImage` for a value that is no class."""
    if classes.colours is not None:
        stored = found if found.dtype == COLOUR else found.astype(COLOUR) * 0x010101
        there = np.array(sorted(classes.colours), COLOUR)
        places = np.searchsorted(there, stored).clip(max=len(there) - 1)
        if (strange := there[places] != stored).any():
            raise BadImage(
                f"{path} holds the colour {format_color(int(stored[strange][0]))}, which is no class",
                "add it to the table",
            )
        return np.array([classes.colours[int(v)] for v in there], np.uint8)[places]
    if found.dtype == COLOUR:
        raise BadImage(
            f"{path} is in colour, and no table says which colour is which class", f"add classes.txt: {TABLE_LINES}"
        )
    if found.size and not 0 <= int(found.min()) <= int(found.max()) <= IGNORE:
        raise BadImage(
            f"{path} holds the value {found.max() if found.min() >= 0 else found.min()}",
            "values of a mask are 0 to 255",
        )
    coded = classes.codes[found]
    if (coded == UNKNOWN).any():
        value = int(found[coded == UNKNOWN][0])
        raise BadImage(
            f"{path} holds the value {value}, which is no class",
            f"there are {len(classes.names)} classes; 255 is ignored",
        )
    return coded.astype(np.uint8)


def format_color(colour: int) -> str:
    return f"{colour >> 16},{colour >> 8 & 255},{colour & 255}"


def number_classes(names: Sequence[str], shift: int = 0) -> MaskClasses:
    """Value i + shift is class i. With a shift, smaller values count for nothing."""
    codes = np.full(256, UNKNOWN, np.int16)
    codes[:shift] = IGNORE
    codes[shift : shift + len(names)] = np.arange(len(names))
    codes[IGNORE] = IGNORE
    return MaskClasses(tuple(names), codes)


def find_class_table(folders: Sequence[Path], shift: int) -> tuple[MaskClasses, Path] | None:
    """The classes as the first table in one of some folders says, and that file. Errors: `DataError` with the number of a line."""
    path = next((f / name for f in folders for name in TABLES if (f / name).is_file()), None)
    if path is None:
        return None
    rows = table_rows(path)
    forms = {(index is None, colour is None) for _, index, colour in rows}
    if len(forms) > 1:
        raise DataError(f"{path}: some lines have numbers and some have not", TABLE_LINES)
    if not rows:
        raise DataError(f"{path} names no classes", TABLE_LINES)
    if rows[0][2] is None and rows[0][1] is None:
        kept = [name for name, _, _ in rows]
        return number_classes(kept, shift), path
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
    """Name, index if there is one, and colour if there is one, of each line."""
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
            continue  # a line of headings
        if len(numbers) not in (0, 1, 3, 4) or not name or any(not 0 <= n <= IGNORE for n in numbers):
            raise DataError(f"{path}, line {number}: {text[:60]!r} is not a class", TABLE_LINES)
        red, green, blue = numbers[-3:] if len(numbers) >= 3 else (0, 0, 0)
        colour = (red << 16 | green << 8 | blue) if len(numbers) >= 3 else None
        rows.append((name, numbers[0] if len(numbers) == 1 else None, colour))
    if len(rows) > MAX_CLASSES:
        raise DataError(
            f"{path} names {len(rows)} classes", f"a mask of 8 bits holds {MAX_CLASSES} and the ignored value"
        )
    return rows


def split_fields(text: str) -> tuple[str, list[int]]:
    """A line's name, which may hold blanks, and its whole numbers. Blanks part numbers from names only where there is nothing better,
    and then "class 2" is a name."""
    pieces = [p.strip() for p in re.split(r"[,;:\t]", text) if p.strip()]
    if len(pieces) == 1 and (found := re.fullmatch(r"(?:(\d+(?: +\d+ +\d+)?) +)?(.+)", text)):
        rest = re.fullmatch(r"(.+?) +(\d+) +(\d+) +(\d+)", found[2])
        name, tail = (rest[1], list(rest.groups()[1:])) if rest else (found[2], [])
        return name, [int(n) for n in [*(found[1] or "").split(), *tail]]
    numbers = [p for p in pieces if re.fullmatch(r"[\d ]+", p)]
    return " ".join(p for p in pieces if p not in numbers), [int(n) for p in numbers for n in p.split()]


def fits(masks: Sequence[Path], classes: MaskClasses, coloured: bool) -> bool:
    """Whether all of some masks can be read in a way."""
    try:
        for mask in masks:
            to_classes(mask, read_values(mask, coloured=coloured), classes)
        return True
    except BadImage:
        return False


def fit_classes(classes: MaskClasses, masks: Sequence[Path], shift: int) -> MaskClasses:
    """The classes of a table as some masks use them: grey values that count its lines though it has colours, or 0 and 255 for two names."""
    if classes.colours is not None:
        some = [masks[i] for i in evenly_spaced(len(masks), SAMPLE)]
        counted = number_classes(classes.names, shift)
        if not fits(some, classes, True) and fits(some, counted, False):
            return counted
    elif len(classes.names) == 2 and not shift:
        seen, _ = detect_classes(masks, shift)
        if seen.colours is None and seen.codes[IGNORE] == 1:
            return MaskClasses(classes.names, seen.codes)
    return classes


def detect_classes(paths: Sequence[Path], shift: int) -> tuple[MaskClasses, list[str]]:
    """The classes that the values of masks make, and notes: 0 and 255 alone are two classes, otherwise 255 is ignored.

    Errors: `DataError` where the values are no classes. Masks that cannot be read are told where they are read.
    """
    some = evenly_spaced(len(paths), LOOKED_AT)
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda i: distinct_values(paths[i]), some))
    if all(f is None for f in found):
        read_values(paths[0])  # tells what is wrong with it
    notes = [f"classes were found by looking at {len(some):,} masks; classes.txt, a name a line, would name them"]
    colour = any(f is not None and f[0] for f in found)
    there = sorted({v * 0x010101 if colour and not f[0] else v for f in found if f is not None for v in f[1]})
    if len(there) - (IGNORE in there) > MAX_CLASSES:
        raise DataError(
            f"{paths[0].parent}: the masks hold {len(there):,} different values", "a mask holds numbers of classes"
        )
    if colour:
        return MaskClasses(
            tuple(f"#{v:06x}" for v in there), number_classes(()).codes, {v: i for i, v in enumerate(there)}
        ), notes
    if there == [0, IGNORE] and not shift:
        codes = number_classes(("background", "foreground")).codes
        codes[1], codes[IGNORE] = UNKNOWN, 1
        return MaskClasses(("background", "foreground"), codes), [
            *notes,
            "the values of the masks are 0 and 255: 255 is the second class",
        ]
    kept = [v for v in there if v != IGNORE and not (shift and v == 0)]
    if kept and not 0 <= kept[0] <= kept[-1] < IGNORE:
        raise DataError(
            f"{paths[0].parent}: the masks hold the value {kept[-1] if kept[0] >= 0 else kept[0]}",
            "values are 0 to 255",
        )
    codes = number_classes((), shift).codes
    codes[kept] = np.arange(len(kept))
    return MaskClasses(tuple(map(str, kept)), codes), notes


def distinct_values(path: Path) -> tuple[bool, list[int]] | None:
    """Whether a mask is in colour, and which values it holds; None where it cannot be read."""
    try:
        found = read_values(path)
    except BadImage:
        return None
    there = np.flatnonzero(np.bincount(found.ravel(), minlength=256)) if found.dtype == np.uint8 else np.unique(found)
    return found.dtype == COLOUR, [int(v) for v in there[: MAX_CLASSES * 16]]
