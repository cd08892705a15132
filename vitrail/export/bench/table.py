"""The table of a bench, and what it recommends."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

from vitrail.errors import CheckpointError
from vitrail.evaluation.difference import Change
from vitrail.validation import check_fields

FILE = "bench.json"  # in the folder of a run

MOST_LOSS = 0.005  # of the metric that ranks models, against torch in fp32
WORTH = 1.1  # times as fast, below which a simpler one is as good
SIMPLER = ("fp32", "bf16", "int8", "int8 dynamic")  # precisions, those that change least first


@dataclass(frozen=True)
class Row:
    """An engine in a precision. change: of the metric against torch in fp32, None without annotated images; changed:
    answers that differ from torch's in fp32. command: the options of `vitrail export` that make its file."""

    name: str
    latency_p50_ms: float  # of one image, wall time
    latency_p95_ms: float
    images_per_second: float  # in a batch, wall time
    cpu_ms: float  # processor time of an image in a batch
    memory_bytes: int | None  # at its peak, while it was opened and ran
    file_bytes: int
    change: Change | None
    answers: int
    changed: int
    command: str

    @property
    def precision(self) -> str:
        return self.name.partition(" ")[2]

    @property
    def loss(self) -> float:
        """Of the metric that ranks models; where that was not measured, the share of answers that differ."""
        if self.change is None:
            return self.changed / max(1, self.answers)
        return -self.change.value

    def loss_sentence(self) -> str:
        share = 100 * self.loss
        return f"{share:.1f} % other answers" if self.change is None else f"{-share:+.1f} points"


@dataclass(frozen=True)
class Table:
    """missing: what could not run, and why. evaluated: the images of the accuracies, in words."""

    rows: tuple[Row, ...]  # torch in fp32 first
    missing: tuple[tuple[str, str], ...]
    batch: int
    threads: int
    machine: str
    evaluated: str
    source: str  # the name of what holds the weights

    def to_dict(self) -> dict[str, Any]:
        rows = [{**asdict(row), "change": row.change and row.change._asdict()} for row in self.rows]
        best = recommend(self)
        return {**asdict(self), "rows": rows, "recommended": best.name, "reason": explain(self, best)}


def recommend(table: Table) -> Row:
    """The one that needs the least processor time among those as accurate as torch in fp32; a simpler one where that is
    nearly as fast."""
    accurate = [row for row in table.rows if row.loss <= MOST_LOSS]
    fastest = min(row.cpu_ms for row in accurate)
    near = [row for row in accurate if row.cpu_ms <= fastest * WORTH]
    return min(near, key=lambda row: (row is not table.rows[0], SIMPLER.index(row.precision), row.cpu_ms))


def explain(table: Table, best: Row) -> str:
    """Why it is recommended, in a few sentences."""
    base = table.rows[0]
    if best is base:
        return (
            f"no other engine is more than {100 * (WORTH - 1):.0f} % faster than torch in fp32 "
            f"({base.cpu_ms:.2f} ms of processor time an image) and as accurate: nothing needs to be exported for speed"
        )
    facts = [
        f"{base.cpu_ms / best.cpu_ms:.2f} times as fast as torch in fp32 ({best.cpu_ms:.2f} ms of processor time an "
        f"image, {base.cpu_ms:.2f} ms)"
    ]
    if best.change is not None:
        facts.append(f"{best.change.sentence()} against torch")
        if best.changed and best.change.low < -MOST_LOSS:
            facts.append(f"so few images do not exclude a loss of more than {100 * MOST_LOSS:.1f} points")
    if best.answers:
        facts.append(f"{best.changed:,} of {best.answers:,} answers differ")
    lossy = [row for row in table.rows if row.loss > MOST_LOSS and row.cpu_ms < best.cpu_ms]
    if lossy:
        names = " and ".join(f"{row.name} ({row.loss_sentence()})" for row in lossy)
        least = f"{100 * MOST_LOSS:.1f} {'points' if best.change else '% of the answers'}"
        facts.append(f"{names} would be faster and lose more than {least}")
    exact = [row for row in table.rows[1:] if row.precision == "fp32" and row.cpu_ms * WORTH < base.cpu_ms]
    if best.precision != "fp32" and exact:
        row = min(exact, key=lambda one: one.cpu_ms)
        facts.append(f"with the answers of torch: {row.name}, {base.cpu_ms / row.cpu_ms:.2f} times as fast")
    return "; ".join(facts)


def read_table(path: Path) -> Table:
    """The table that a file of `Table.to_dict` holds, each field checked. Errors: `CheckpointError`."""
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}", "vitrail bench RUN writes it") from None
    where = str(path)
    kinds = {**get_type_hints(Table), "rows": list[dict[str, Any]], "missing": list[list[str]]}
    check_fields(values if isinstance(values, dict) else {}, kinds, where)
    rows = []
    for row in values["rows"]:
        check_fields(row, {**get_type_hints(Row), "change": dict[str, Any] | None}, where)
        change = row["change"]
        if change is not None:
            check_fields(change, get_type_hints(Change), where)
            change = Change(*(change[name] for name in Change._fields))
        rows.append(Row(**{**{field.name: row[field.name] for field in fields(Row)}, "change": change}))
    missing = tuple((name, reason) for name, reason in values["missing"])
    found = Table(
        tuple(rows), missing, **{key: values[key] for key in ("batch", "threads", "machine", "evaluated", "source")}
    )
    if not rows or any(row.precision not in SIMPLER or not row.cpu_ms > 0 for row in rows) or rows[0].loss > 0:
        raise CheckpointError(f"{path} is no table of a bench", "vitrail bench RUN writes it")
    return found
