"""What a run tells whoever iterates over it."""

from typing import Any, NamedTuple


class Event(NamedTuple):
    """Something to tell: "train", "eval", "saved", "note", "stopped" or "done", at a step, with numbers or words."""

    kind: str
    step: int
    values: dict[str, Any]
