"""What the run was made of: cost, data, recipe and versions."""

import re
from collections import defaultdict
from typing import Any

import numpy as np

from vitrail.analysis.cost import Cost
from vitrail.recipe import to_tables
from vitrail.report.page import words
from vitrail.report.page.markup import Section, bar, escape_name, escape_text, table
from vitrail.report.page.words import format_percent, format_plural, format_short
from vitrail.report.run_data import RunData


def price(known: RunData) -> Section | None:
    """What one image costs, in all and by part."""
    if known.cost is None:
        return None
    pairs = [re.split(r"\s{2,}", line, maxsplit=1) for line in known.cost.lines()]
    parts = shares(known.cost)
    total = known.cost.macs or 1
    rows = [
        [escape_text(part), bar(macs / total, f"{format_short(macs)} ({format_percent(macs / total, 0)})")]
        for part, macs in parts
    ]
    body = table(["", ""], [[escape_text(a), escape_text(b)] for a, b in pairs], "facts") + table(
        ["Part", "Multiply-adds"], rows, "facts"
    )
    return Section(
        "cost", "What it costs", words.describe_cost(known.cost, parts), f'<div class="columns">{body}</div>'
    )


def shares(cost: Cost) -> list[tuple[str, int]]:
    """Multiply-adds by part, summing to the whole: what a part does outside its counted parts is done by its blocks."""
    found = dict(cost.by_part)
    parts = []
    for part, macs in found.items():
        inner = sum(n for p, n in found.items() if p.startswith(f"{part}."))
        if inner and macs > inner:
            parts.append((f"{part}.blocks", macs - inner))
        elif not inner:
            parts.append((part, macs))
    return parts


def data(known: RunData) -> Section | None:
    about = known.about.get("data", {})
    parts, classes = about.get("parts", {}), known.classes
    said = [
        f"{format_plural(sum(parts.values()), 'image')} in {format_plural(len(parts), 'part')}, {format_plural(len(classes), 'class', 'classes')}"
        f"{', any number of them to an image' if known.is_multi_label else ''}."
    ]
    if known.dataset is not None and len(known.dataset.classes) == len(classes):
        labels = known.dataset.splits["train"].labels
        counts = labels.sum(0) if labels.ndim == 2 else np.bincount(labels, minlength=len(classes))
        said.append(words.describe_balance(counts, classes))
    else:
        said.append(
            f"The data is not there any more: {escape_text(known.absent)}."
            if known.absent
            else "The data has changed since."
        )
    left_out = sum(len(places) for places in about.get("left_out", {}).values())
    facts = [
        *((f"{escape_text(part)} part", f"{count:,}") for part, count in parts.items()),
        ("layout", escape_text(about.get("layout", ""))),
        ("channels", escape_text(about.get("channels", ""))),
        ("left out", f"{left_out:,}"),
        ("content", f"<code>{escape_text(str(about.get('content', ''))[:16])}</code>"),
    ]
    notes = "".join(f"<li>{escape_text(note)}</li>" for note in known.about.get("notes", []))
    listed = " ".join(f'<span class="chip">{escape_name(c)}</span>' for c in classes)
    body = table(["", ""], facts, "facts") + f'<div><p class="chips">{listed}</p><ul>{notes}</ul></div>'
    return Section("data", "The data", said, f'<div class="columns">{body}</div>')


def recipe(known: RunData) -> Section | None:
    """Every key with its value, and beside those that were chosen, why."""
    why = reasons(known.about.get("reasons", []))
    tables = to_tables(known.recipe)
    boxes = []
    for section, keys in tables.items():
        rows = [
            [
                f"<code>{escape_text(key)}</code>",
                f'<code>{escape_text(spelt(value))}</code> <span class="why">{why[f"{section}.{key}"]}</span>',
            ]
            for key, value in keys.items()
        ]
        boxes.append(f"<h3>{escape_text(section)}</h3>" + table([""], rows, "facts"))
    raw = known.folder.recipe_file.read_text(encoding="utf-8")
    body = f'<div class="boxes">{"".join(f"<div>{box}</div>" for box in boxes)}</div>'
    body += f"<details><summary>recipe.toml as it is</summary><pre>{escape_text(raw)}</pre></details>"
    count = sum(map(len, tables.values()))
    chosen = len(known.about.get("reasons", []))
    said = [
        f"{format_plural(count, 'setting')}; {format_plural(chosen, 'choice')} made for this data and this machine, each with its reason."
    ]
    return Section("recipe", "The recipe", said, body)


def reasons(lines: list[str]) -> defaultdict[str, str]:
    """ "section.key = value: why" -> why as HTML, by section.key; one reason may be that of several keys."""
    found: defaultdict[str, str] = defaultdict(str)
    for line in lines:
        head, _, why = str(line).partition(": ")
        for key in head.partition(" = ")[0].split(", "):
            found[key if "." in key else f"{key}.name"] = escape_text(why)
    return found


def spelt(value: Any) -> str:
    """A value of a recipe as one would say it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(spelt, value))
    return str(value)


def versions(known: RunData) -> Section | None:
    found = {**known.about.get("versions", {}), "processes": known.about.get("processes", 1)}
    found["numbers"] = known.recipe.train.precision
    facts = [[escape_text(key), escape_text(value)] for key, value in found.items()]
    return Section("versions", "Made with", [], table(["", ""], facts, "facts"))
