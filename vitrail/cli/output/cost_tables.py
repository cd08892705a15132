"""Image sizes of a command line, and tables of costs over them."""

import re
from collections.abc import Sequence

from vitrail.analysis.cost_growth import GROWING, Grown
from vitrail.cli.output.tables import Column, table
from vitrail.cli.syntax.keys import is_number
from vitrail.errors import UsageError
from vitrail.validation import format_value


def with_joined_size(words: Sequence[str]) -> list[str]:
    """`--img-size 224 320` as the one word `--img-size=224x320`. Errors: `UsageError`.

    >>> with_joined_size(["vit/base", "--img-size", "224", "320"])
    ['vit/base', '--img-size=224x320']
    """
    rest = list(words)
    for i, word in enumerate(rest):
        if word == "--img-size" and rest[i + 1 : i + 2] and (is_number(rest[i + 1]) or not rest[i + 1].startswith("-")):
            word = rest[i] = f"--img-size={rest.pop(i + 1)}"
        if word.startswith("--img-size=") and is_number(word[11:]) and rest[i + 1 : i + 2] and is_number(rest[i + 1]):
            rest[i] += f"x{rest.pop(i + 1)}"
            if rest[i + 1 : i + 2] and is_number(rest[i + 1]):
                raise UsageError(
                    "--img-size takes height and width, no third number",
                    "several sizes have commas: --img-size 224,384,512",
                )
        if rest[i].startswith("--img-size="):
            sizes(rest[i][11:])  # refused here: a second word that is no number would be read as a model
    return rest


def sizes(text: str) -> list[tuple[int, int]]:
    """The sizes (height, width) that a text lists. Errors: `UsageError`.

    >>> sizes("224,384x512")
    [(224, 224), (384, 512)]
    """
    parsed = []
    for part in text.split(",") if text else ():
        match = re.fullmatch(r"([-+]?\d{1,18})(?:[xX×]([-+]?\d{1,18}))?", part.strip())
        if not match:
            fix = "several sizes have commas and no spaces: --img-size 224,384x512"
            raise UsageError(f"--img-size takes 2 whole numbers, or one for a square, not {format_value(part)}", fix)
        size = int(match[1]), int(match[2] or match[1])
        if min(size) < 1:
            raise UsageError(
                f"an image of {size[0]} x {size[1]} pixels is not possible",
                "--img-size HEIGHT WIDTH, or --img-size 224,384,512",
            )
        parsed.append(size)
    return list(dict.fromkeys(parsed))


def growth_lines(grown: Sequence[Grown]) -> list[str]:
    """For each model a table with a row a size: what it costs, how many times the first of its column that is, and what
    it grows as."""
    from vitrail.analysis.cost import classify_attention, format_bytes, format_macs

    lines = []
    columns = [Column("size"), Column("multiply-adds"), Column("ratio"), Column("attention weights"), Column("ratio"),
               Column("activations"), Column("ratio")]  # fmt: skip
    for name, costs in grown:
        rows = []
        for cost in costs:
            row = [by(cost.size)]
            for field in GROWING:
                value, first = getattr(cost, field), getattr(costs[0], field)
                row += [
                    format_macs(value) if field == "macs" else format_bytes(value),
                    f"{value / first:.2f}" if first else "",
                ]
            rows.append(row)
        powers = Grown(name, costs).powers().values()
        rows.append(
            ["grows as"] + [cell for power in powers for cell in ("" if power is None else f"pixels^{power:.2f}", "")]
        )
        many = f"; memory is that of {costs[0].batch} images" if costs[0].batch > 1 else ""
        lines += [
            f"{name}: {costs[0].parameters:,} parameters at every size{many}",
            *table(columns, rows),
            classify_attention(costs),
            "",
        ]
    return lines[:-1]


def side_by_side(grown: Sequence[Grown]) -> list[str]:
    """A row for each model at its one size."""
    from vitrail.analysis.cost import format_bytes, format_macs

    columns = [Column("model", right=False), Column("size"), Column("parameters"), Column("multiply-adds"),
               Column("attention weights"),
               Column("activations")]  # fmt: skip
    rows = [
        [
            name,
            by(c.size),
            f"{c.parameters:,}",
            format_macs(c.macs),
            format_bytes(c.attention_bytes),
            format_bytes(c.activation_bytes),
        ]
        for name, (c,) in grown
    ]
    return table(columns, rows)


def parts_lines(grown: Sequence[Grown]) -> list[str]:
    """For each model the multiply-adds of its parts, at every size."""
    from vitrail.analysis.cost import format_macs

    lines = []
    for name, costs in grown:
        columns = [Column(f"parts of {name}", right=False)] + [
            c for cost in costs for c in (Column(by(cost.size)), Column("share"))
        ]
        part_names = dict.fromkeys(part for cost in costs for part in cost.by_part)
        rows = [[part, *(cell for c in costs for cell in (format_macs(c.by_part.get(part, 0)),
                                                          f"{c.by_part.get(part, 0) / c.macs:.1%}"))]
                for part in part_names]  # fmt: skip
        rows.append(["all", *(cell for c in costs for cell in (format_macs(c.macs), ""))])
        lines += ["", *table(columns, rows)]
    return lines


def by(size: Sequence[int]) -> str:
    return f"{size[0]}x{size[1]}"
