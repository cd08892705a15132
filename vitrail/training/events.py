"""The events of a run, for its caller."""

from typing import Any, NamedTuple


class Event(NamedTuple):
    """An event: "train", "eval", "saved", "note", "stopped" or "done", at a step, with numbers or words."""

    kind: str
    step: int
    values: dict[str, Any]
