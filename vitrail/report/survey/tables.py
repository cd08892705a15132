"""Counts by class and part as lines of text."""

from collections.abc import Mapping, Sequence

from vitrail.data.survey.images import SHOWN, UnreadableImage

CLASSES = 40  # classes listed: those with the fewest


def table(classes: Sequence[str], counts: Mapping[str, Sequence[int]], what: str) -> list[str]:
    """A header, then a line per class with its count in each part. what: the unit, such as images or boxes."""
    first = next(iter(counts.values()))
    wide = max(16, *(len(c) + 2 for c in classes))
    lines = [f"{'class':<{wide}}" + "".join(f"{part:>{column(counts[part])}}" for part in counts)]
    rarest = sorted(range(len(classes)), key=lambda i: first[i])[:CLASSES]
    for i in sorted(rarest):
        lines.append(f"{classes[i]:<{wide}}" + "".join(f"{own[i]:>{column(own)},}" for own in counts.values()))
    if len(rarest) < len(classes):
        lines.append(f"and {len(classes) - CLASSES:,} more classes, of more {what}")
    return lines


def column(counts: Sequence[int]) -> int:
    """Width of a column that holds some counts."""
    return max(10, len(f"{max(counts, default=0):,}") + 2)


def list_broken(title: str, broken: Sequence[UnreadableImage]) -> list[str]:
    """An empty line, the title, and a line for each of the first; none where nothing is broken."""
    if not broken:
        return []
    lines = ["", title, *(f"  {bad.name}: {bad.reason}" for bad in broken[:SHOWN])]
    return [*lines, f"  and {len(broken) - SHOWN:,} more"] if len(broken) > SHOWN else lines
