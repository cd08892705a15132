"""The result of a study: numbers, a table, figures, and the parts of its HTML report."""

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vitrail.storage.json_text import to_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class ResultPart:
    """A part of the page. sentences: plain text; figure: the name of a figure, "" for none; head, rows: a table."""

    title: str
    sentences: tuple[str, ...] = ()
    figure: str = ""
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class StudyResult:
    """numbers: for results.json; lines: of table.md; figures: SVG by file name; parts: of report.html, if any."""

    numbers: Mapping[str, Any]
    lines: Sequence[str]
    figures: Mapping[str, bytes]
    title: str = ""
    parts: tuple[ResultPart, ...] = ()

    def files(self, head: Mapping[str, Any]) -> dict[str, bytes]:
        """The files by name. head: the keys before the numbers."""
        results = to_json({**head, **self.numbers}, indent=1)
        return {
            "results.json": f"{results}\n".encode(),
            "table.md": ("\n".join(self.lines) + "\n").encode(),
            **self.figures,
        }


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table in Markdown.

    >>> markdown_table(["a", "b"], [["1", "2"]])
    ['| a | b |', '|---|---|', '| 1 | 2 |']
    """
    return [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(f"| {' | '.join(row)} |" for row in rows)]


def figure_svg(figure: "Figure") -> bytes:
    """A matplotlib figure as SVG; the same figure gives the same bytes."""
    import matplotlib

    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "vitrail", "svg.fonttype": "none", "font.sans-serif": ["DejaVu Sans"]}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    # coordinates to a hundredth of a point
    paths = re.sub(rb' d="[^"]*"', lambda path: re.sub(rb"(\.\d\d)\d+", rb"\1", path[0]), file.getvalue())
    return re.sub(rb"\n +", rb"\n", paths)
