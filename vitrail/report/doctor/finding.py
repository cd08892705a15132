"""A finding of vitrail doctor: a problem or an anomaly, its evidence, and advice."""

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple


class Finding(NamedTuple):
    """name: for programs; grave: the run or its result is unusable; what, evidence, advice: for people."""

    name: str
    grave: bool
    what: str
    evidence: str
    advice: str


class Value(NamedTuple):
    """A logged value and its step."""

    step: int
    value: float


def logged_values(rows: Sequence[dict[str, Any]], key: str) -> list[Value]:
    """A column of the log without values that are missing or not finite."""
    return [Value(int(row["step"]), float(row[key])) for row in rows if isinstance(row.get(key), int | float)]


def quarter_medians(values: Sequence[Value]) -> list[float]:
    """The medians of the four quarters of at least four values.

    >>> quarter_medians([Value(i, float(i)) for i in range(8)])
    [0.5, 2.5, 4.5, 6.5]
    """
    n = len(values)
    return [statistics.median(v.value for v in values[i * n // 4 : (i + 1) * n // 4]) for i in range(4)]


def list_some(names: Sequence[str], most: int = 5) -> str:
    """The first few names of a list, and the number of the others."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")
