"""`vitrail compare`: two runs or more, side by side."""

from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from vitrail.cli.output.tables import Column, table
from vitrail.cli.syntax.arguments import read
from vitrail.cli.syntax.verb import Verb
from vitrail.errors import UsageError
from vitrail.validation import as_path

WIDEST = 40  # characters of a setting


@dataclass
class Compare:
    """Compare runs: recipes, metrics with intervals, disagreements, cost.

    vitrail compare runs/a runs/b
    vitrail compare runs/a runs/b --out a-b.html
    """

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")]
    """Two runs or more; the others are compared with the first."""
    out: str = ""
    """A new file for an HTML report, with curves and images."""


def compare(words: list[str]) -> None:
    given, _ = read(VERB, words)
    path = as_path(given.out) if given.out else None
    if path is not None and path.exists():
        raise UsageError(f"{path} is there already and is never overwritten", "choose another --out")
    if path is not None and not path.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {path.parent}", "create it, or choose another --out")
    from vitrail.report.compare.compare_page import render_page
    from vitrail.report.compare.comparison import compare_runs
    from vitrail.storage.atomic import write_file

    comparison = compare_runs(given.runs)
    print("\n".join(format_lines(comparison)))
    if path is not None:
        write_file(path, render_page(comparison).encode("utf-8", errors="replace"))
        print(f"written to {path}")


def format_lines(comparison: Any) -> list[str]:
    from vitrail.report.compare.compare_page import format_interval, metric_title
    from vitrail.report.compare.comparison import describe_comparison, list_costs

    parts = [("What differs in the recipes", comparison.recipes),
             (metric_title(comparison) + ", with intervals of 95 %",
              [(key, [format_interval(i) for i in row]) for key, row in comparison.metrics]),
             ("What they cost", list_costs(comparison.runs))]  # fmt: skip
    lines = []
    for title, rows in parts:
        columns = [Column("", right=False), *(Column(name) for name in comparison.names)]
        cells = [
            [key, *(value if len(value) <= WIDEST else f"{value[: WIDEST - 3]}..." for value in values)]
            for key, values in rows
        ]
        lines += [title, *(f"  {line}" for line in (table(columns, cells) if cells else ["nothing"])), ""]
    return [*lines, *describe_comparison(comparison)]


VERB = Verb("compare", Compare, compare)
