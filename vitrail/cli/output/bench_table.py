"""A bench in words: the table, what could not run, and the recommendation."""

from vitrail.cli.output.tables import Column, paragraph, table
from vitrail.export.bench.table import Row, Table, explain, recommend
from vitrail.storage.printable import shell_word

HEADS = [
    Column("engine", right=False), Column("ms p50"), Column("p95", spare=2), Column("images/s"), Column("CPU ms"),
    Column("memory MB", spare=3), Column("file MB", spare=4), Column("metric"), Column("points"),
    Column("other answers"),
]  # fmt: skip


def show_bench(result: Table, run: str) -> None:
    metric = next((row.change.metric for row in result.rows if row.change), "metric")
    heads = [head._replace(title=metric) if head.title == "metric" else head for head in HEADS]
    print(f"{result.machine}, {result.threads} thread{'s' if result.threads > 1 else ''}; ms: of one image;")
    print(f"images/s and CPU ms (processor time of an image): in batches of {result.batch}")
    print("\n".join(table(heads, [cells(row) for row in result.rows])))
    print("\n".join(paragraph(f"accuracy on {result.evaluated}; other answers and points: against torch in fp32")))
    for name, reason in result.missing:
        print("\n".join(paragraph(f"not measured: {name}: {reason}")))
    best = recommend(result)
    print("\n" + "\n".join(paragraph(f"recommended: {best.name}; {explain(result, best)}")))
    print("\n".join(f"  {line}" for line in commands(best, run)))


def cells(row: Row) -> list[str]:
    change = row.change
    return [
        row.name, f"{row.latency_p50_ms:.2f}", f"{row.latency_p95_ms:.2f}", f"{row.images_per_second:,.0f}",
        f"{row.cpu_ms:.2f}", "-" if row.memory_bytes is None else f"{row.memory_bytes / 1e6:,.0f}",
        f"{row.file_bytes / 1e6:.1f}", "-" if change is None else f"{100 * change.after:.2f} %",
        "-" if change is None else f"{100 * change.value:+.2f} [{100 * change.low:+.2f}, {100 * change.high:+.2f}]",
        f"{row.changed:,} of {row.answers:,}" if row.answers else "-",
    ]  # fmt: skip


def commands(best: Row, run: str) -> list[str]:
    """How to have what is recommended."""
    if not best.command:
        return [f"vitrail predict {shell_word(run)} IMAGE... --precision {best.precision}"]
    lines = [f"vitrail export {shell_word(run)} {best.command}"]
    if best.precision == "bf16":
        lines.append("and open the file in bf16, as the last line of its output says")
    return lines
