"""Counts every variant of the catalogue on the meta device and compares with vitrail/published.toml.

    python benchmarks/catalogue.py            # says what differs; exit code 1 if anything does
    python benchmarks/catalogue.py --write    # writes the counted columns; what was written by hand stays as it is

It takes a minute. A variant that is new gets a row; the row of one that is gone goes too.
"""

import argparse
import sys
import tomllib
from pathlib import Path
from typing import Any

from history import append

import vitrail
from vitrail import catalog
from vitrail.analysis.cost import cost, on_meta_device

FILE = Path(catalog.__file__).parent / "published.toml"
HEADING = "\n[models]\n"  # rows are what follows it, to the end of the file
BY_HAND = ("top1", "at", "trained", "paper")


def counted(name: str) -> dict[str, Any]:
    """The columns that can be counted."""
    with on_meta_device():
        model = vitrail.create(name)
    found = cost(model)
    return {"parameters": found.parameters, "macs": found.macs, "size": list(found.size)}


def row(name: str, cells: dict[str, Any]) -> str:
    """A line of TOML."""
    return f'"{name}" = {{ {", ".join(f"{key} = {shown(key, value)}" for key, value in cells.items())} }}\n'


def shown(key: str, value: Any) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    return f"{value:_}" if key in ("parameters", "macs") else str(value)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    text = FILE.read_text(encoding="utf-8")
    old = tomllib.loads(text)["models"]
    new = {}
    for name in catalog.list_names("models"):
        before = old.get(name, {})
        new[name] = {**counted(name), **{key: before[key] for key in BY_HAND if key in before}}
    differing = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    for name in differing:
        print(f"{name}: {old.get(name, 'no row')} -> {new.get(name, 'no such variant')}")
    if given.write and differing:
        head = text[: text.index(HEADING) + len(HEADING)]
        FILE.write_text(head + "".join(row(name, cells) for name, cells in new.items()), encoding="utf-8", newline="\n")
        print(f"{len(differing)} rows written to {FILE}")
    append("catalogue", {"variants": len(new), "differing": len(differing)})
    return 1 if differing and not given.write else 0


if __name__ == "__main__":
    sys.exit(main())
