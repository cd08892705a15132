"""How far our numbers are from those of timm, transformers, torchvision and the originals with the same weights, as a
table.

    python benchmarks/parity.py [--family swin] [--write]

The pairs are those of the tests (`tests/oracles.py`): tiny models, every parameter and buffer stirred, weights through
the tables of names. Denoisers are held against diffusers and the originals. `--write` puts one row for each family and
oracle, with its largest error, between the markers in README.md.
"""

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from history import append

from vitrail import catalog

HOME = Path(__file__).parents[1]
START, END = "<!-- parity -->", "<!-- /parity -->"


class Row(NamedTuple):
    """What came of one pair over all its sizes."""

    family: str
    oracle: str
    settings: str
    sizes: tuple[tuple[int, int], ...]
    compared: str
    error: float
    allowed: float


def measure(pair: Any) -> Row:
    from oracles import compare

    said = "output" if catalog.model_kind(pair.family) == "denoiser" else "logits"
    error, compared = 0.0, said
    for size in pair.sizes:
        torch.manual_seed(0)
        found = compare(pair.make(size), size)
        error = max(error, found["logits"], found.get("maps", 0.0))
        compared = f"{said}, maps" if "maps" in found else said
    return Row(pair.family, pair.oracle, pair.settings, pair.sizes, compared, error, pair.tolerance)


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def long(rows: list[Row]) -> str:
    """One row for each pair."""
    shown = [[r.family, r.oracle, r.settings or "plain", sizes(r.sizes), r.compared, figure(r.error)] for r in rows]
    return table(["family", "oracle", "settings", "sizes", "compared", "relative error"], shown)


def short(rows: list[Row]) -> str:
    """One row for each family, a column for each oracle: the largest error over everything compared."""
    oracles = ["timm", "transformers", "torchvision", "diffusers", "original"]
    worst: dict[tuple[str, str], float] = {}
    for r in rows:
        worst[r.family, r.oracle] = max(worst.get((r.family, r.oracle), 0.0), r.error)
    families = dict.fromkeys(r.family for r in rows)
    cells = [[f, *(figure(worst[f, o]) if (f, o) in worst else "" for o in oracles)] for f in families]
    return table(["largest relative error", *oracles[:-1], "the original's outputs"], cells)


def figure(error: float) -> str:
    return "0" if error == 0 else f"{error:.0e}"


def sizes(these: tuple[tuple[int, int], ...]) -> str:
    return ", ".join(f"{h}x{w}" for h, w in these)


def write(text: str) -> None:
    readme = HOME / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(START)
    _, found, after = rest.partition(END)
    if not found:
        sys.exit(f"README.md has no {START} and {END}, one after the other")
    readme.write_text(f"{before}{START}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", help="only this one")
    parser.add_argument("--write", action="store_true", help="put the short table into README.md")
    given = parser.parse_args()
    sys.path.append(str(HOME / "tests"))
    from oracles import PAIRS

    pairs = [p for p in PAIRS if given.family in (None, p.family)]
    missing = sorted({p.oracle for p in pairs if p.oracle != "original" and find_spec(p.oracle) is None})
    for name in missing:
        print(f"{name} is not installed; its pairs are left out")
    rows = [measure(p) for p in pairs if p.oracle not in missing]
    print(long(rows))
    append(
        "parity",
        {f"{r.family} {r.oracle} {r.settings}".strip(): r.error for r in rows},
        {"family": given.family or "all"},
    )
    if far := [r for r in rows if r.error > r.allowed]:
        sys.exit(f"further off than allowed: {', '.join('/'.join(r[:3]) for r in far)}")
    if given.write:
        if missing or given.family:
            sys.exit("README.md was left as it is: the table would not be whole")
        write(short(rows))


if __name__ == "__main__":
    main()
