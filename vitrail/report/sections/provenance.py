"""Provenance of a run: cost, data, recipe and versions."""

import re
from collections import defaultdict
from typing import Any

import numpy as np

from vitrail.analysis.cost import Cost
from vitrail.assembly.run_directory import hash_of
from vitrail.recipe import to_tables
from vitrail.report.page import words
from vitrail.report.page.markup import Section, bar, escape_name, escape_text, table
from vitrail.report.page.words import format_percent, format_plural, format_short
from vitrail.report.run_data import RunData


def price(run: RunData) -> Section | None:
    """The cost of one image, total and by part."""
    if run.cost is None:
        return None
    pairs = [re.split(r"\s{2,}", line, maxsplit=1) for line in run.cost.lines()]
    parts = shares(run.cost)
    total = run.cost.macs or 1
    rows = [
        [escape_text(part), bar(macs / total, f"{format_short(macs)} ({format_percent(macs / total, 0)})")]
        for part, macs in parts
    ]
    body = table(["", ""], [[escape_text(a), escape_text(b)] for a, b in pairs], "facts") + table(
        ["Part", "Multiply-adds"], rows, "facts"
    )
    return Section("cost", "Cost", words.describe_cost(run.cost, parts), f'<div class="columns">{body}</div>')


def shares(cost: Cost) -> list[tuple[str, int]]:
    """Multiply-adds by part, which sum to the total; the rest of a part with counted children is that of its blocks."""
    macs_by_part = dict(cost.by_part)
    parts = []
    for part, macs in macs_by_part.items():
        inner = sum(n for p, n in macs_by_part.items() if p.startswith(f"{part}."))
        if inner and macs > inner:
            parts.append((f"{part}.blocks", macs - inner))
        elif not inner:
            parts.append((part, macs))
    return parts


def data(run: RunData) -> Section | None:
    about = run.about.get("data", {})
    parts, classes = about.get("parts", {}), run.classes
    sentences = [
        f"{format_plural(sum(parts.values()), 'image')} in {format_plural(len(parts), 'part')}, "
        f"{format_plural(len(classes), 'class', 'classes')}{' (multi-label)' if run.is_multi_label else ''}."
    ]
    there = run.dataset.classes if run.dataset is not None else ()
    if run.dataset is not None and list(there) == classes and classes:
        labels = run.dataset.splits["train"].labels
        counts = labels.sum(0) if labels.ndim == 2 else np.bincount(labels, minlength=len(classes))
        sentences.append(words.describe_balance(counts, classes))
    elif run.dataset is None or list(run.task.output_names(there)) != classes:
        sentences.append(
            f"The data set cannot be opened any more: {escape_text(run.absent)}."
            if run.absent
            else "The data has changed since the run."
        )
    excluded = sum(len(indices) for indices in about.get("left_out", {}).values())
    facts = [
        *((f"{escape_text(part)} part", f"{count:,}") for part, count in parts.items()),
        ("layout", escape_text(about.get("layout", ""))),
        ("channels", escape_text(about.get("channels", ""))),
        ("excluded images", f"{excluded:,}"),
        ("content" if about.get("content") else "files", f"<code>{escape_text(hash_of(about)[:16])}</code>"),
    ]
    notes = "".join(f"<li>{escape_text(note)}</li>" for note in run.about.get("notes", []))
    chips = " ".join(f'<span class="chip">{escape_name(c)}</span>' for c in classes)
    body = table(["", ""], facts, "facts") + f'<div><p class="chips">{chips}</p><ul>{notes}</ul></div>'
    return Section("data", "Data", sentences, f'<div class="columns">{body}</div>')


def recipe(run: RunData) -> Section | None:
    """Every key with its value, and the reason where the value was chosen automatically."""
    why = reasons(run.about.get("reasons", []))
    tables = to_tables(run.recipe)
    boxes = []
    for section, keys in tables.items():
        rows = [
            [
                f"<code>{escape_text(key)}</code>",
                f'<code>{escape_text(format_value(value))}</code> <span class="why">{why[f"{section}.{key}"]}</span>',
            ]
            for key, value in keys.items()
        ]
        boxes.append(f"<h3>{escape_text(section)}</h3>" + table([""], rows, "facts"))
    raw = run.folder.recipe_file.read_text(encoding="utf-8", errors="surrogateescape")
    body = f'<div class="boxes">{"".join(f"<div>{box}</div>" for box in boxes)}</div>'
    body += f"<details><summary>recipe.toml</summary><pre>{escape_text(raw)}</pre></details>"
    count = sum(map(len, tables.values()))
    chosen = len(run.about.get("reasons", []))
    sentences = [
        f"{format_plural(count, 'setting')}, {chosen:,} of them chosen automatically for this data and machine, "
        "with the reason."
    ]
    return Section("recipe", "Recipe", sentences, body)


def reasons(lines: list[str]) -> defaultdict[str, str]:
    """ "section.key = value: why" -> why as HTML, by section.key; one reason may be that of several keys."""
    by_key: defaultdict[str, str] = defaultdict(str)
    for line in lines:
        head, _, why = str(line).partition(": ")
        for key in head.partition(" = ")[0].split(", "):
            by_key[key if "." in key else f"{key}.name"] = escape_text(why)
    return by_key


def format_value(value: Any) -> str:
    """A value of a recipe as text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(format_value, value))
    return str(value)


def versions(run: RunData) -> Section | None:
    facts_by_name = {**run.about.get("versions", {}), "processes": run.about.get("processes", 1)}
    facts_by_name["numbers"] = run.recipe.train.precision
    origin = run.about.get("origin") or {}
    names = {"source": "began with", "licence": "under the licence", "revision": "of the commit", "sha256": "SHA-256"}
    facts_by_name |= {text: origin[key] for key, text in names.items() if origin.get(key)}
    facts = [[escape_text(key), escape_text(value)] for key, value in facts_by_name.items()]
    return Section("versions", "Versions", [], table(["", ""], facts, "facts"))
