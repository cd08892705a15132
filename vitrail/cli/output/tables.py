"""Plain-text tables with aligned columns; on a narrow terminal the least important columns are left out."""

import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

GAP = 2  # spaces between columns
WIDEST = 96  # columns of running text


class Column(NamedTuple):
    title: str
    right: bool = True  # right-aligned, as numbers are
    spare: int = 0  # order in which columns are left out: the greatest first; 0 always stays


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines: the titles, then the rows. Output to a file or pipe has every column."""
    widths = [max(len(cell) for cell in cells) for cells in zip([c.title for c in columns], *rows, strict=True)]
    visible = list(range(len(columns)))
    for i in sorted((i for i in visible if columns[i].spare), key=lambda i: -columns[i].spare):
        if sum(widths[k] + GAP for k in visible) - GAP > room():
            visible.remove(i)

    def line(cells: Sequence[str]) -> str:
        placed = (cells[i].rjust(widths[i]) if columns[i].right else cells[i].ljust(widths[i]) for i in visible)
        return (" " * GAP).join(placed).rstrip()

    return [line([c.title for c in columns]), *map(line, rows)]


def paragraph(text: str) -> list[str]:
    return textwrap.wrap(text, max(int(min(room(), WIDEST)), 20), break_long_words=False, break_on_hyphens=False)


def room() -> float:
    """Columns of the terminal; unlimited where stdout is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else float("inf")
