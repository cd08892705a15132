"""The report on every tensor of a file and every parameter of a model: nothing is dropped silently."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from vitrail.errors import many

MAX_LISTED = 10


@dataclass(frozen=True, repr=False)
class LoadReport:
    """The result of loading weights.

    loaded, missing, resized (with the method), left_out (with the reason): our names. dropped (with the reason): names
    in the file. unexpected: names in the file that no rule matches, and our names that this model lacks. fraction: of
    the model's numbers that come from the file.
    """

    source: str  # the table of names, such as "timm"
    sha256: str  # of the file
    loaded: tuple[str, ...]
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    resized: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    fraction: float = 1.0
    notes: tuple[str, ...] = ()
    new: tuple[str, ...] = ()  # of the head, not in the file: as initialised

    def __repr__(self) -> str:
        lines = self.lines()
        return "\n".join([*lines[:4], *(["... .lines() has all"] if lines[4:] else [])])

    def lines(self) -> list[str]:
        """The report as a table for a terminal."""
        rows = [
            ("source", self.source),
            *((("sha256", self.sha256),) if self.sha256 else ()),  # weights of a run have none
            ("loaded", f"{many(len(self.loaded), 'tensor')}, {self.fraction:.2%} of the model's numbers"),
            ("missing", list_names(self.missing)),
            ("unexpected", list_names(self.unexpected)),
            *((("new", list_names(self.new)),) if self.new else ()),
            *format_reasons("resized", self.resized),
            *format_reasons("left out", self.left_out),
            *format_reasons("dropped", self.dropped),
            *((("note", note)) for note in self.notes),
        ]
        return [f"{name:<11} {replace_unprintable(text)}" for name, text in rows]


def format_reasons(what: str, reasons: dict[str, str]) -> list[tuple[str, str]]:
    """One row a reason, with its names."""
    by_reason: dict[str, list[str]] = {}
    for name, why in reasons.items():
        by_reason.setdefault(why, []).append(name)
    return [(what, f"{list_names(names)}: {why}") for why, names in by_reason.items()]


def list_names(names: Iterable[str]) -> str:
    """The first ten names and the count.

    >>> list_names(["a", "b"])
    '2: a, b'
    """
    names = sorted(names)
    return f"{len(names)}: {', '.join(names[:MAX_LISTED])}{', ...' if names[MAX_LISTED:] else ''}" if names else "none"


def replace_unprintable(text: str) -> str:
    """Replaces control characters, which names in an untrusted file may contain."""
    return "".join(ch if ch.isprintable() else "?" for ch in text)
