"""What the program around a model costs, beside a peer that does the same work: ratios of processor time on one thread.

    OMP_NUM_THREADS=1 python benchmarks/product.py [ROW...] [--rounds 7] [--data data] [--list]

A row has two sides that take turns, in an order that changes every round. A round gives one ratio; the median of the
rounds and their quartiles go into docs/results.md, where rows that did not run stay as they were, and into
benchmarks/history.jsonl. `--data` is a folder with cifar-10/train/CLASS/*.png; rows that need it are left out without.

Rows are in `product_*.py` beside this file: each has `ROWS`, a tuple of `Row`.
"""

import argparse
import importlib
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from history import append

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
START, END = "<!-- product -->", "<!-- /product -->"
HEAD = """## What the program costs around the model

`OMP_NUM_THREADS=1 python benchmarks/product.py [ROW...] --data data`: processor time of all processes on one thread
(rows in bytes: memory), two sides in turns, the median of the rounds and their quartiles.

| row | what | aim | median | quartiles | rounds | date |
|---|---|---|---|---|---|---|"""


class Place(NamedTuple):
    """folder: an empty folder of the row. data: real image sets, or None."""

    folder: Path
    data: Path | None


class Skip(Exception):
    """A row that cannot be measured here, and why."""


Side = Callable[[], float]  # does its work once and returns what it took: seconds of processor time, or bytes


class Row(NamedTuple):
    """name: as typed. what: the two sides, "ours / theirs". aim: ">= 1.5" or "<= 1.1". sides(place): numerator and
    denominator of the ratio; raises `Skip`. scale: of the ratio, such as 1 / images."""

    name: str
    what: str
    aim: str
    sides: Callable[[Place], tuple[Side, Side]]
    scale: float = 1.0


def processor_time(work: Callable[[], object]) -> Side:
    """Seconds of this process, all its threads, and of the children that it waited for, in user and system mode."""

    def side() -> float:
        before = cpu_seconds()
        work()
        return cpu_seconds() - before

    return side


def cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def command_time(*words: object, folder: Path | None = None) -> Side:
    """Seconds of `python WORDS...` in a process of its own, from its start to its end; one that fails raises."""
    texts = [sys.executable, *map(str, words)]

    def run() -> None:
        done = subprocess.run(texts, cwd=folder, capture_output=True, text=True, env={**os.environ, **ONE_THREAD})
        if done.returncode:
            raise RuntimeError(f"{' '.join(texts)} ended with {done.returncode}: {done.stderr[-2000:]}")

    return processor_time(run)


ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}


def load_rows() -> dict[str, Row]:
    files = sorted(Path(__file__).parent.glob("product_*.py"))
    rows = [row for file in files for row in importlib.import_module(file.stem).ROWS]
    return {row.name: row for row in rows}


def measure(row: Row, rounds: int, data: Path | None) -> list[float]:
    """The ratio of every round; a round that warms up is not counted."""
    with tempfile.TemporaryDirectory(prefix="product-") as folder:
        sides = row.sides(Place(Path(folder), data))
        ratios = []
        for number in range(-1, rounds):
            order = (0, 1) if number % 2 else (1, 0)
            took = {which: sides[which]() for which in order}
            if number >= 0:
                ratios.append(row.scale * took[0] / took[1])
                print(f"    {row.name} {ratios[-1]:.3f}   ({took[0]:.3g} / {took[1]:.3g})", flush=True)
    return ratios


def quartiles(ratios: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive") if ratios[1:] else list(ratios) * 3
    return low, middle, high


def is_met(aim: str, median: float) -> bool:
    sign, bar = aim.split()
    return median >= float(bar) if sign == ">=" else median <= float(bar)


def write_page(measured: Mapping[str, tuple[Row, list[float]]], page: Path = PAGE) -> None:
    """Replaces the lines of the rows that ran; the others stay."""
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    old, _, after = rest.partition(END) if rest else ("", "", "")
    lines = {match[1]: match[0] for match in re.finditer(r"^\| `([\w.-]+)` \|.*$", old, re.MULTILINE)}
    for name, (row, ratios) in measured.items():
        low, middle, high = quartiles(ratios)
        shown = f"{middle:.2f}" if is_met(row.aim, middle) else f"**{middle:.2f}** (missed)"
        day = time.strftime("%Y-%m-%d", time.gmtime())
        figures = f"{row.aim} | {shown} | {low:.2f} to {high:.2f} | {len(ratios)} | {day}"
        lines[name] = f"| `{name}` | {row.what} | {figures} |"
    body = "\n".join([HEAD, *(lines[name] for name in sorted(lines))])
    before = before.rstrip("\n")
    page.write_text(f"{before}\n\n{START}\n{body}\n{END}{after or chr(10)}", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    rows = load_rows()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--list", action="store_true", help="name the rows")
    options = parser.parse_args(arguments)
    if unknown := set(options.rows) - set(rows):
        parser.error(f"no row {', '.join(sorted(unknown))}; there are {', '.join(rows)}")
    if options.list:
        print("\n".join(f"{row.name:20} {row.aim:8} {row.what}" for row in rows.values()))
        return 0
    os.environ.update(ONE_THREAD)
    met = []
    for name in options.rows or rows:
        try:
            met.append(report(rows[name], measure(rows[name], options.rounds, options.data)))
        except Skip as reason:
            print(f"{name}: left out: {reason}")
    return 0 if all(met) else 1


def report(row: Row, ratios: list[float]) -> bool:
    """Prints and keeps a row, before the next one may fail; whether its aim is met."""
    low, middle, high = quartiles(ratios)
    print(f"{row.name:20} {middle:.3f}   {low:.3f} to {high:.3f}   aim {row.aim}", flush=True)
    write_page({row.name: (row, ratios)})
    append("product", {row.name: {"low": low, "median": middle, "high": high}}, {"rounds": len(ratios)})
    return is_met(row.aim, middle)


if __name__ == "__main__":
    sys.exit(main())
