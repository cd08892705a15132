"""What a study has found, ready to be written: numbers, a table, figures, and the parts of a page that explains them."""

import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class ResultPart:
    """A part of the page. words: plain sentences; figure: the name of the figure shown, "" for none; head, rows: a table."""

    title: str
    sentences: tuple[str, ...] = ()
    figure: str = ""
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class StudyResult:
    """numbers: for results.json; lines: of table.md; figures: SVG by file name; parts: of report.html, which is written where there are
    any."""

    numbers: Mapping[str, Any]
    lines: Sequence[str]
    figures: Mapping[str, bytes]
    title: str = ""
    parts: tuple[ResultPart, ...] = ()

    def files(self, head: Mapping[str, Any]) -> dict[str, bytes]:
        """The files by name. head: what stands above the numbers."""
        results = json.dumps({**head, **self.numbers}, indent=1, allow_nan=False)
        return {
            "results.json": f"{results}\n".encode(),
            "table.md": ("\n".join(self.lines) + "\n").encode(),
            **self.figures,
        }


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table in Markdown.

    >>> table(["a", "b"], [["1", "2"]])
    ['| a | b |', '|---|---|', '| 1 | 2 |']
    """
    return [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(f"| {' | '.join(row)} |" for row in rows)]


def figure_svg(figure: "Figure") -> bytes:
    """A figure of matplotlib as SVG; the same figure makes the same bytes."""
    import matplotlib

    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "vitrail", "svg.fonttype": "none", "font.sans-serif": ["DejaVu Sans"]}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    paths = re.sub(
        rb' d="[^"]*"', lambda path: re.sub(rb"(\.\d\d)\d+", rb"\1", path[0]), file.getvalue()
    )  # a hundredth of a point will do
    return re.sub(rb"\n +", rb"\n", paths)
