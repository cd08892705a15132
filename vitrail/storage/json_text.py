"""JSON that every reader takes: a number that is not finite is null, since JSON has neither NaN nor Infinity.

The only place where the package writes JSON, and where it reads JSON that others may have changed.
"""

import json
import math
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any


def to_json(
    value: Any,
    indent: int | None = None,
    sort_keys: bool = False,
    ensure_ascii: bool = True,
    default: Callable[[Any], Any] | None = None,
    separators: tuple[str, str] | None = None,
) -> str:
    """The text of a value of dicts, lists, texts and numbers, numpy's among them; the arguments as those of
    `json.dumps`.

    >>> to_json({"loss": float("nan"), "top1": 0.5})
    '{"loss": null, "top1": 0.5}'
    """
    text = json.dumps(
        finite(value), indent=indent, sort_keys=sort_keys, ensure_ascii=ensure_ascii, default=default, allow_nan=False,
        separators=separators,
    )  # fmt: skip
    # bytes of a file's name that are no UTF-8 are escaped, as `ensure_ascii` does, and read back as they were
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def finite(value: Any) -> Any:
    """The same with None in place of every number that is not finite."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, Real) and not isinstance(value, Integral):
        return float(value) if math.isfinite(value) else None
    return int(value) if isinstance(value, Integral) else value


def from_json(text: str | bytes) -> Any:
    """The value of a text. Errors: `ValueError`, also for NaN and Infinity, for a name twice in one object, and for a
    text that is nested too deeply."""
    try:
        return json.loads(text, parse_constant=refuse_constant, object_pairs_hook=refuse_duplicates)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        repeated = [name for name, value in pairs if table[name] is not value]
        raise ValueError(f"the name {repeated[0][:80]!r} stands twice" if repeated else "a name stands twice")
    return table
