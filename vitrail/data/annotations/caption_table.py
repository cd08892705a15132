"""Captions in a table: which columns have them, and the images of its lines, of which several may be of one image."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vitrail.data.annotations.captions import captions_of_cell
from vitrail.data.sheet import Sheet
from vitrail.errors import many

CAPTION = (
    *("caption", "captions", "text", "texts", "sentence", "sentences", "description", "alt_text", "alt", "prompt"),
    *("title", "comment"),
)
NUMBERED = r"[ _.-]?(\d+|[a-z]{2})"  # after the name of a column: caption_1, caption en


class CaptionedLines(NamedTuple):
    """lines: int64 [N], the first line of each image that has a caption; captions: of each image; notes."""

    lines: np.ndarray
    captions: list[tuple[str, ...]]
    notes: list[str]


def find_caption_columns(sheet: Sheet, named: Sequence[str], taken: Sequence[int]) -> list[int]:
    """The columns of captions: those that are named, or the first with a usual name and those that only have a number
    or a language after it. Errors: `DataError` for a name that no column has."""
    if named:
        return [sheet.require(name, "--data.caption-column") for name in named]
    for name in CAPTION:
        own = re.compile(rf"{name}({NUMBERED})?")
        if found := [i for i, column in enumerate(sheet.names) if i not in taken and own.fullmatch(column)]:
            return found
    return []


def collect_captions(sheet: Sheet, images: Sequence[str], parts: np.ndarray, columns: Sequence[int]) -> CaptionedLines:
    """The captions of each image, in the order of its lines and columns. Errors: `DataError` for an image that is in
    two parts, and for a caption that is no text."""
    sheet.raise_first(
        sorted(row for row, column in sheet.structured if column in columns),
        lambda i: f"the caption is {next(sheet.structured[i, c] for c in columns if (i, c) in sheet.structured)}",
        lambda _: 'a caption is a text, or several are a list of texts: "caption": ["a cat", "un chat"]',
    )
    first: dict[str, int] = {}
    texts: dict[str, list[str]] = {}
    torn = []
    for i, name in enumerate(images):
        j = first.setdefault(name, i)
        if parts[i] != parts[j]:
            torn.append(i)
        own = texts.setdefault(name, [])
        for column in columns:
            own += captions_of_cell(cell_of(sheet, i, column))
    sheet.raise_first(
        torn,
        lambda i: f"{images[i]} is {parts[i]}, in line {sheet.lines[first[images[i]]]} {parts[first[images[i]]]}",
        lambda _: "give all lines of an image one split",
    )
    kept = [name for name, own in texts.items() if own]
    lacking = [name for name, own in texts.items() if not own]
    notes = (
        [f"left out, as they have no caption: {many(len(lacking), 'image')}, the first {lacking[0]}"] if lacking else []
    )
    if len(images) > len(first):
        notes.append(f"{len(images):,} lines are captions of {many(len(first), 'image')}")
    return CaptionedLines(
        np.array([first[name] for name in kept], np.int64), [tuple(dict.fromkeys(texts[name])) for name in kept], notes
    )


def cell_of(sheet: Sheet, row: int, column: int) -> str:
    """A cell; that of the last column with what follows, where a text has commas and no quotes around it."""
    cells = sheet.rows[row]
    return ", ".join(cell.strip() for cell in cells[column : None if column == len(sheet.header) - 1 else column + 1])
