"""The series of a benchmark: a row a run, oldest first, a column a figure.

python benchmarks/table.py                     # which benchmarks have run, and when last
python benchmarks/table.py zoo [--last 10] [--figures swin,vit]
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from history import read


def overview(rows: Sequence[dict[str, Any]]) -> str:
    last = {row["benchmark"]: row for row in rows}
    count = {name: sum(row["benchmark"] == name for row in rows) for name in last}
    return table(
        ("benchmark", "runs", "last", "commit"),
        ((n, count[n], r["date"][:10], r["commit"]) for n, r in sorted(last.items())),
    )


def series(rows: Sequence[dict[str, Any]], parts: Sequence[str] = ()) -> str:
    """The figures of `rows`, those whose names hold one of `parts`; settings and machines below, by number."""
    names = list(
        dict.fromkeys(
            name for row in rows for name in row["figures"] if not parts or any(part in name for part in parts)
        )
    )
    where = list(dict.fromkeys(circumstances(row) for row in rows))
    cells = (
        (
            row["date"][:10],
            row["commit"],
            where.index(circumstances(row)) + 1,
            *(shown(row["figures"].get(n)) for n in names),
        )
        for row in rows
    )
    notes = "\n".join(f"{i}: {text}" for i, text in enumerate(where, start=1))
    return f"{table(('date', 'commit', 'on', *names), cells)}\n\n{notes}"


def circumstances(row: dict[str, Any]) -> str:
    return "; ".join(
        filter(None, (row["machine"], ", ".join(f"{key} {value}" for key, value in row["settings"].items())))
    )


def shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", nargs="?")
    parser.add_argument("--last", type=int, default=20, help="rows")
    parser.add_argument("--figures", default="", help="parts of their names, with commas between; all by default")
    given = parser.parse_args()
    rows = read()
    if given.benchmark is None:
        print(overview(rows))
        return
    of_it = [row for row in rows if row["benchmark"] == given.benchmark]
    if not of_it:
        sys.exit(
            f"{given.benchmark} has no row; there are {', '.join(sorted({row['benchmark'] for row in rows})) or 'none'}"
        )
    print(series(of_it[-given.last :], [part for part in given.figures.split(",") if part]))


if __name__ == "__main__":
    main()
