"""`vitrail models`: lists the models, and the settings of one."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints

import tyro

from vitrail.cli.output.cost_tables import by
from vitrail.cli.output.tables import Column, paragraph, table
from vitrail.cli.syntax.arguments import read
from vitrail.cli.syntax.verb import AsJson, Verb
from vitrail.storage.json_text import to_json
from vitrail.validation import describe_type, format_value


@dataclass
class Models(AsJson):
    """List the models with parameters, multiply-adds and accuracy; describe a family; list the settings of a model.

    vitrail models
    vitrail models swin
    vitrail models swin/tiny
    """

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[NAME]")] = ""
    """A family (vit) or a model (vit/base); without: all models."""


COLUMNS = (
    Column("model", right=False), Column("parameters (M)"), Column("GMACs"), Column("size", spare=1),
    Column("top-1 (%)"),
    Column("at", right=False, spare=2), Column("trained on", right=False, spare=3),
    Column("paper", right=False, spare=4),
)  # fmt: skip


def models(words: list[str]) -> None:
    given, _ = read(VERB, words)
    from vitrail import catalog

    published = catalog.read_published()
    if "/" in given.name or "." in given.name:
        return describe_model(given, published)
    rows = [read_facts(name, published) for name in catalog.list_names("models", given.name or None)]
    if not given.name:
        print(to_json(rows) if given.json else "\n".join(table(COLUMNS, [cells(row, published) for row in rows])))
        return None
    papers = [{"arxiv": number, **published["papers"][number]} for number in published["families"].get(given.name, [])]
    headline, *about = catalog.read_docstring("models", given.name)
    if given.json:
        print(to_json({"family": given.name, "papers": papers, "about": about, "models": rows}))
        return None
    lines = [headline] if not papers else [line for paper in papers for line in format_paper(paper)]
    for text in about:
        lines += ["", *paragraph(text)]
    lines += ["", *table(COLUMNS, [cells(row, published) for row in rows])]
    lines += [
        "",
        f"the settings of one:  vitrail models {rows[0]['name']}",
        f"its cost:             vitrail cost {rows[0]['name']}",
    ]
    print("\n".join(lines))
    return None


def describe_model(given: Models, published: dict[str, Any]) -> None:
    """The row and the settings of one model."""
    from vitrail import catalog

    catalog.import_typed(given.name)
    config, row = catalog.load_config("models", given.name), read_facts(given.name, published)
    fields = dataclasses.fields(config)
    if given.json:
        print(to_json({**row, "settings": {f.name: getattr(config, f.name) for f in fields}}))
        return
    print(f"{given.name}: {(catalog.load_module('models', given.name).__doc__ or '').strip().splitlines()[0]}\n")
    if given.name in published["models"]:
        print("\n".join(table(COLUMNS, [cells(row, published)])) + "\n")
    kinds = get_type_hints(type(config), include_extras=True)
    for field in fields:
        key, value = field.name.replace("_", "-"), format_value(getattr(config, field.name))
        print(f"  --model.{key:<20} {value:<12} {describe_type(kinds[field.name])}")


def read_facts(name: str, published: dict[str, Any]) -> dict[str, Any]:
    """Published facts of a model, without building it; None where there are none."""
    row, family = published["models"].get(name, {}), published["families"].get(name.partition("/")[0], [])
    facts = {key: row.get(key) for key in ("parameters", "macs", "size", "top1", "trained")}
    side = row.get("at")
    facts["top1_size"] = ([side, side] if side else row["size"]) if "top1" in row else None
    return {"name": name, **facts, "paper": row.get("paper", family[0] if family else "") or None}


def cells(row: dict[str, Any], published: dict[str, Any]) -> list[str]:
    """The same as text, for `COLUMNS`. The image size of top-1 is given where it is not the variant's own."""
    macs, top1, paper = row["macs"], row["top1"], row["paper"]
    return [
        row["name"],
        f"{row['parameters'] / 1e6:,.2f}" if row["parameters"] else "",
        f"{macs / 1e9:,.{2 if macs >= 1e9 else 3}f}" if macs else "",
        by(row["size"]) if row["size"] else "",
        "" if not top1 else f"{top1:.2f}" if round(top1, 1) != top1 else f"{top1:.1f} ",
        by(row["top1_size"]) if top1 and row["top1_size"] != row["size"] else "",
        row["trained"] or "",
        format_citation(published["papers"][paper]) if paper else "",
    ]


def format_citation(paper: dict[str, Any]) -> str:
    """A citation: authors and year."""
    first, *others = paper["authors"]
    return f"{first}{' et al.' if others[1:] else f' & {others[0]}' if others else ''} {paper['year']}"


def format_paper(paper: dict[str, Any]) -> list[str]:
    return [
        *paragraph(paper["title"]),
        *paragraph(f"{', '.join(paper['authors'])} {paper['year']}, arxiv.org/abs/{paper['arxiv']}"),
    ]


VERB = Verb("models", Models, models)
