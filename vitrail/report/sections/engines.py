"""What runs the model fastest: the table that `vitrail bench` kept."""

from vitrail.errors import CheckpointError
from vitrail.export.bench.table import FILE, Row, Table, explain, read_table, recommend
from vitrail.report.page.markup import Section, bar, escape_text, table
from vitrail.report.run_data import RunData

HEADS = (
    "Engine", "Processor time of an image", "One image (p50, p95)", "Images a second", "Memory", "File", "Metric",
    "Change (95 % interval)", "Other answers",
)  # fmt: skip


def section(run: RunData) -> Section | None:
    """None where nothing was measured, or what was kept is damaged."""
    path = run.folder.path / FILE
    if not path.is_file():
        return None
    try:
        result = read_table(path)
    except CheckpointError:
        return None
    best = recommend(result)
    sentences = [
        f"Recommended: <strong>{escape_text(best.name)}</strong>; {escape_text(explain(result, best))}.",
        escape_text(
            f"{result.machine}, {result.threads} thread{'s' if result.threads > 1 else ''}, batches of {result.batch}; "
            f"accuracy on {result.evaluated}. Changes and other answers are against torch in fp32."
        ),
    ]
    return Section("engines", "Engines", sentences, table(HEADS, rows(result), "facts"))


def rows(result: Table) -> list[list[str]]:
    slowest = max(row.cpu_ms for row in result.rows) or 1.0
    return [
        [escape_text(row.name), bar(row.cpu_ms / slowest, f"{row.cpu_ms:.2f} ms"), *map(escape_text, cells(row))]
        for row in result.rows
    ]


def cells(row: Row) -> list[str]:
    change = row.change
    return [
        f"{row.latency_p50_ms:.2f}, {row.latency_p95_ms:.2f} ms", f"{row.images_per_second:,.0f}",
        "" if row.memory_bytes is None else f"{row.memory_bytes / 1e6:,.0f} MB", f"{row.file_bytes / 1e6:.1f} MB",
        "" if change is None else f"{change.metric} {100 * change.after:.2f} %",
        "" if change is None else f"{100 * change.value:+.2f} ({100 * change.low:+.2f} to {100 * change.high:+.2f})",
        f"{row.changed:,} of {row.answers:,}" if row.answers else "-",
    ]  # fmt: skip
