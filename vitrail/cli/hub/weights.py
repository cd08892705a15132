"""`vitrail weights`: lists the published weights that are known by name."""

from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from vitrail.cli.output.tables import Column, table
from vitrail.cli.syntax.arguments import read
from vitrail.cli.syntax.verb import AsJson, Verb
from vitrail.errors import choose
from vitrail.storage.json_text import to_json


@dataclass
class Weights(AsJson):
    """List published weights by name. Nothing is asked of anybody.

    vitrail weights
    vitrail weights vit
    vitrail weights vit/small --json
    """

    family: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[FAMILY]")] = ""
    """A family (vit) or a model (vit/small); without: all."""


COLUMNS = (
    Column("name", right=False), Column("parameters (M)"), Column("top-1 (%)"), Column("size", spare=2),
    Column("classes", spare=4),
    Column("licence", right=False), Column("MB", spare=3), Column("here", right=False),
    Column("source", right=False, spare=1),
)  # fmt: skip


def weights(words: list[str]) -> None:
    given, _ = read(VERB, words)
    from vitrail import catalog
    from vitrail.weights.remote.licences import is_permissive
    from vitrail.weights.remote.table import read_table, rows_of

    if given.family:
        names = dict.fromkeys(name for row in read_table() for name in (row.model, row.name))
        choose(given.family, [*catalog.list_modules("models"), *names], "family or model of published weights")
    rows = [facts(row) for row in rows_of(given.family)]
    if given.json:
        print(to_json(rows))
        return
    if not rows:
        print(f"of {given.family} none are known by name; hf:ORG/REPO takes any repository of the hub")
        return
    print("\n".join(table(COLUMNS, [cells(row) for row in rows])))
    print()
    if any(row["recommended"] for row in rows):
        print("* the model's name alone means these")
    if not all(row["bytes"] or not row["megabytes"] for row in rows):
        print(f"~ about: {BYTES} bytes a parameter; the size of a file is known once it was here")
    if restricted := dict.fromkeys(row["licence"] for row in rows if not is_permissive(row["licence"])):
        print(f"asked for before they are fetched (--accept-licence NAME): {', '.join(restricted)}")
    print("\nto begin with some:    vitrail train --data FOLDER --weights NAME")
    print("without a network:     vitrail fetch NAME --to FOLDER")


def facts(row: Any) -> dict[str, Any]:
    """A row of the table, and whether its file is on this machine. bytes: of the file, None where it was never here;
    megabytes: of it, else about."""
    from vitrail.weights.locate import bytes_of, is_here

    size = bytes_of(row)
    return {
        "name": row.name, "model": row.model, "recommended": row.recommended, "source": row.source,
        "parameters": row.parameters or None, "top1": row.top1, "training": row.training, "classes": row.classes,
        "size": list(row.size), "licence": row.licence, "bytes": size or None,
        "megabytes": round((size or row.parameters * BYTES) / 1e6, 1) or None,
        "verified": row.verified, "here": is_here(row), **{k: row.preprocessing[k] for k in ("mean", "std")},
    }  # fmt: skip


def cells(row: dict[str, Any]) -> list[str]:
    """The same as text, for `COLUMNS`."""
    height, width = row["size"]
    return [
        row["name"] + (" *" if row["recommended"] else ""),
        f"{row['parameters'] / 1e6:,.1f}" if row["parameters"] else "",
        f"{row['top1']:.2f}" if row["top1"] else "",
        str(height) if height == width else f"{height} x {width}",
        f"{row['classes']:,}" if row["classes"] else "",
        row["licence"] or "not stated",
        f"{'' if row['bytes'] else '~'}{row['megabytes']:,.0f}" if row["megabytes"] else "",
        "yes" if row["here"] else "",
        row["source"] if len(row["source"]) <= LONGEST else f"{row['source'][: LONGEST - 3]}...",
    ]


BYTES = 4  # of a parameter as it is published as a rule
LONGEST = 64  # characters of a source
VERB = Verb("weights", Weights, weights)
