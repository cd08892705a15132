"""What an examination of a run says: something that is wrong or looks odd, how that was seen, and what to do."""

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple


class Finding(NamedTuple):
    """name: for programs; grave: it spoils the run or its use, others may do no harm; what, evidence, advice: for people."""

    name: str
    grave: bool
    what: str
    evidence: str
    advice: str


class Value(NamedTuple):
    """A number of the log."""

    step: int
    value: float


def logged_values(rows: Sequence[dict[str, Any]], key: str) -> list[Value]:
    """A column of the log without what was not finite or not logged."""
    return [Value(int(row["step"]), float(row[key])) for row in rows if isinstance(row.get(key), int | float)]


def quarter_medians(found: Sequence[Value]) -> list[float]:
    """The medians of four equal stretches, of at least four numbers.

    >>> quarters([Value(i, float(i)) for i in range(8)])
    [0.5, 2.5, 4.5, 6.5]
    """
    n = len(found)
    return [statistics.median(v.value for v in found[i * n // 4 : (i + 1) * n // 4]) for i in range(4)]


def list_some(names: Sequence[str], most: int = 5) -> str:
    """A list in words, of which only the first few are said."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")
