"""What became of every tensor of a file and of every parameter of a model: nothing is dropped silently."""

from collections.abc import Iterable
from dataclasses import dataclass, field

SHOWN = 10


@dataclass(frozen=True)
class LoadReport:
    """`loaded`, `missing`, `resized` (with what was done) and `left_out` (with the reason): names of ours. `dropped` (with the reason):
    names of theirs. `unexpected`: names of theirs that no rule knows, and names of ours that this model has no place for.
    `fraction`: of the model's numbers, how many came from the file."""

    source: str  # which table of names was used, such as "timm"
    sha256: str  # of the file
    loaded: tuple[str, ...]
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    resized: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    fraction: float = 1.0
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The report as a table for a terminal."""
        rows = [
            ("source", self.source),
            ("sha256", self.sha256),
            ("loaded", f"{len(self.loaded)} tensors, {self.fraction:.2%} of the model's numbers"),
            ("missing", list_names(self.missing)),
            ("unexpected", list_names(self.unexpected)),
            *format_reasons("resized", self.resized),
            *format_reasons("left out", self.left_out),
            *format_reasons("dropped", self.dropped),
            *((("note", note)) for note in self.notes),
        ]
        return [f"{name:<11} {clean(text)}" for name, text in rows]


def format_reasons(what: str, reasons: dict[str, str]) -> list[tuple[str, str]]:
    """One row a reason, with the names it holds for."""
    by_reason: dict[str, list[str]] = {}
    for name, why in reasons.items():
        by_reason.setdefault(why, []).append(name)
    return [(what, f"{list_names(names)}: {why}") for why, names in by_reason.items()]


def list_names(names: Iterable[str]) -> str:
    """The first ten names and the count.

    >>> listed(["a", "b"])
    '2: a, b'
    """
    names = sorted(names)
    return f"{len(names)}: {', '.join(names[:SHOWN])}{', ...' if names[SHOWN:] else ''}" if names else "none"


def clean(text: str) -> str:
    """Names in a stranger's file may hold what a terminal obeys."""
    return "".join(ch if ch.isprintable() else "?" for ch in text)
