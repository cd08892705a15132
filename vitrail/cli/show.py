"""`vitrail models` and `vitrail cost`."""

import dataclasses
import json
import sys
from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints

import tyro

from vitrail.checks import place, shown, spoken
from vitrail.cli.growth import Grown, by, growth_lines, parts_lines, side_by_side, sizes, with_joined_size
from vitrail.cli.tables import Column, paragraph, table
from vitrail.cli.words import arguments, only, take_keys
from vitrail.errors import UsageError, nearest


@dataclass
class Models:
    """List the models in numbers; what is special about a family; the settings of one model with their defaults."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[NAME]")] = ""
    """A family ("vit") or a model ("vit/base"). Left out: all of them."""
    json: bool = False
    """Print JSON."""


@dataclass
class CostOf:
    """What models cost for one picture, or for several sizes of it: vitrail cost vit/base swin/base --size 224,384,512

    Keys of the model go with it: vitrail cost vit/base --model.depth 6"""

    names: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL...")]
    """A model such as vit/base, or a run; several are compared."""
    size: str = ""
    """Pixels: 224 (a square), 224x320 (height x width; 224 320 is the same), or several, 224,384x512; by default the model's own."""
    batch: int = 1
    """How many pictures memory is counted for; multiply-adds are always those of one."""
    parts: bool = False
    """Show which part of the model takes how many of the multiply-adds."""
    plot: str = ""
    """Draw what several sizes cost into this file, .svg or .png."""
    classes: int = 1000
    """How many classes the head of a model by name tells apart."""
    json: bool = False
    """Print JSON."""


ARGUMENTS: dict[str, type] = {"models": Models, "cost": CostOf}
COLUMNS = (
    Column("model", right=False), Column("parameters (M)"), Column("GMACs"), Column("size", spare=1), Column("top-1 (%)"),
    Column("at", right=False, spare=2), Column("trained on", right=False, spare=3), Column("paper", right=False, spare=4),
)  # fmt: skip


def models(words: list[str]) -> None:
    given = arguments(Models, words, "vitrail models")
    from vitrail import catalog

    known = catalog.published()
    if "/" in given.name or "." in given.name:
        return one(given, known)
    rows = [fact(name, known) for name in catalog.names("models", given.name or None)]
    if not given.name:
        print(json.dumps(rows) if given.json else "\n".join(table(COLUMNS, [cells(row, known) for row in rows])))
        return None
    papers = [{"arxiv": number, **known["papers"][number]} for number in known["families"].get(given.name, [])]
    headline, *about = catalog.about("models", given.name)
    if given.json:
        print(json.dumps({"family": given.name, "papers": papers, "about": about, "models": rows}))
        return None
    lines = [headline] if not papers else [line for paper in papers for line in cited(paper)]
    for text in about:
        lines += ["", *paragraph(text)]
    lines += ["", *table(COLUMNS, [cells(row, known) for row in rows])]
    lines += ["", f"the settings of one:  vitrail models {rows[0]['name']}", f"what it costs:        vitrail cost {rows[0]['name']}"]
    print("\n".join(lines))
    return None


def one(given: Models, known: dict[str, Any]) -> None:
    """The row and the settings of one model."""
    from vitrail import catalog

    config, row = catalog.config("models", given.name), fact(given.name, known)
    fields = dataclasses.fields(config)
    if given.json:
        print(json.dumps({**row, "settings": {f.name: getattr(config, f.name) for f in fields}}))
        return
    print(f"{given.name}: {(catalog.module('models', given.name).__doc__ or '').strip().splitlines()[0]}\n")
    if given.name in known["models"]:
        print("\n".join(table(COLUMNS, [cells(row, known)])) + "\n")
    kinds = get_type_hints(type(config), include_extras=True)
    for field in fields:
        print(f"  --model.{field.name.replace('_', '-'):<20} {shown(getattr(config, field.name)):<12} {spoken(kinds[field.name])}")


def fact(name: str, known: dict[str, Any]) -> dict[str, Any]:
    """What is known of a model without building it; None where nothing is."""
    row, family = known["models"].get(name, {}), known["families"].get(name.partition("/")[0], [])
    found = {key: row.get(key) for key in ("parameters", "macs", "size", "top1", "trained")}
    side = row.get("at")
    found["top1_size"] = ([side, side] if side else row["size"]) if "top1" in row else None
    return {"name": name, **found, "paper": row.get("paper", family[0] if family else "") or None}


def cells(row: dict[str, Any], known: dict[str, Any]) -> list[str]:
    """The same as words, for `COLUMNS`. Where top-1 was measured is said where it is not the variant's own size."""
    macs, top1, paper = row["macs"], row["top1"], row["paper"]
    return [
        row["name"],
        f"{row['parameters'] / 1e6:,.2f}" if row["parameters"] else "",
        f"{macs / 1e9:,.{2 if macs >= 1e9 else 3}f}" if macs else "",
        by(row["size"]) if row["size"] else "",
        "" if not top1 else f"{top1:.2f}" if round(top1, 1) != top1 else f"{top1:.1f} ",
        by(row["top1_size"]) if top1 and row["top1_size"] != row["size"] else "",
        row["trained"] or "",
        short(known["papers"][paper]) if paper else "",
    ]


def short(paper: dict[str, Any]) -> str:
    """Authors and year in as few words as a text would use."""
    first, *others = paper["authors"]
    return f"{first}{' et al.' if others[1:] else f' & {others[0]}' if others else ''} {paper['year']}"


def cited(paper: dict[str, Any]) -> list[str]:
    return [*paragraph(paper["title"]), *paragraph(f"{', '.join(paper['authors'])} {paper['year']}, arxiv.org/abs/{paper['arxiv']}")]


def cost(words: list[str]) -> None:
    rest, keys = take_keys(words)
    given = arguments(CostOf, with_joined_size(rest), "vitrail cost")
    if not given.names:
        raise UsageError("vitrail cost needs MODEL: a model such as vit/base, or a run", "vitrail models lists them all")
    if given.batch < 1:
        raise UsageError(f"memory cannot be counted for {given.batch} pictures", "--batch takes a number from 1 up")
    wanted = sizes(given.size)
    changes = only("model", keys, "what a model costs")
    if given.plot:
        from vitrail.cli.plot import may_draw

        may_draw(given.plot, wanted)
    counted = []
    for name in dict.fromkeys(given.names):
        model = named(name, given.classes, changes)
        counted.append(Grown(name, [count(name, model, size, given.batch) for size in wanted or (None,)]))
    if given.plot:
        from vitrail.cli.plot import draw

        draw(counted, given.plot)
    alone = len(counted) == 1 and len(counted[0].costs) == 1
    if given.json:
        found = [entry for grown in counted for entry in grown.entries()]
        sys.stdout.write(json.dumps(found[0] if alone else found) + "\n")
        return
    lines = counted[0].costs[0].lines() if alone else growth_lines(counted) if len(wanted) > 1 else side_by_side(counted)
    print("\n".join(lines + (parts_lines(counted) if given.parts else [])))


def count(name: str, model: Any, size: tuple[int, int] | None, batch: int) -> Any:
    """The cost of a picture. Errors: `UsageError` for a size that the model cannot take."""
    from vitrail.analysis.cost import cost as counted

    try:
        return counted(model, size, batch)
    except (RuntimeError, OverflowError) as error:
        if size is None:
            raise
        why = "too many numbers to count" if "overflow" in str(error) else (str(error).splitlines() or [""])[0]
        raise UsageError(f"{name} cannot take a picture of {size[0]} x {size[1]} pixels: {why}", "try another --size") from None


def named(name: str, classes: int, keys: dict[str, Any]) -> Any:
    """A model by name (on the meta device: no memory for its weights), or the model of a run."""
    from vitrail import catalog
    from vitrail.analysis.cost import weightless
    from vitrail.run import model
    from vitrail.run.predict import load

    if name.partition("/")[0] in catalog.rooms("models") and not place(name).exists():
        with weightless():
            return model.create(name, classes, keys)
    if keys:
        raise UsageError("a run is as it is; keys go with a model by name", "vitrail cost vit/base --model.depth 6")
    if not place(name).exists() and (near := nearest(name, catalog.names("models"))):
        raise UsageError(f"{name} is neither a model nor a run", f"did you mean {' or '.join(near)}? vitrail models lists them all")
    return load(name).model
