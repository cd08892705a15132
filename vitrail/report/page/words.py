"""Number formats, and the sentences that each section of the page begins with, as HTML."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from vitrail.analysis.cost import Cost
from vitrail.errors import many
from vitrail.metrics.intervals import chance_difference
from vitrail.report.page.markup import escape_name, escape_text

THIN = "\u202f"  # a narrow space that does not break


def format_percent(share: float, digits: int = 1) -> str:
    """0.873 -> "87.3 %"; values just below 1 or above 0 are not rounded to them."""
    least = 10.0**-digits
    if 0 < share < least / 200:
        return f"<{THIN}{least:g}{THIN}%"
    if 1 - least / 200 < share < 1:
        return f">{THIN}{100 - least:g}{THIN}%"
    return f"{100 * share:.{digits}f}{THIN}%"


def format_short(n: float) -> str:
    """12,345 -> "12k": for places where only a few letters fit."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(n) >= size:
            return f"{n / size:.3g}{letter}" if abs(n) < 100 * size else f"{n / size:.0f}{letter}"
    return f"{n:.3g}"


def format_plural(n: int, thing: str, things: str = "") -> str:
    return f"{n:,} {thing if n == 1 else things or thing + 's'}"


def format_duration(seconds: float) -> str:
    """Two units at most: "3 h 05 min"."""
    s = round(seconds)
    if s < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{s} s"
    if s < 3600:
        return f"{s // 60} min {s % 60:02d} s"
    if s < 86400:
        return f"{s // 3600} h {s % 3600 // 60:02d} min"
    return f"{format_plural(s // 86400, 'day')} {s % 86400 // 3600} h"


def describe_baseline(metrics: dict[str, Any], classes: Sequence[str]) -> list[str]:
    """The accuracy of always predicting the most frequent class."""
    counts = np.array(metrics.get("per_class", {}).get("count", []), float)
    if not counts.sum():
        return []
    most = int(counts.argmax())
    return [
        f"Baseline: always predicting {escape_name(classes[most])} would reach an accuracy of "
        f"{format_percent(counts[most] / counts.sum())}."
    ]


def describe_curves(
    losses: Sequence[tuple[float, float]], scores: Sequence[tuple[float, float]], metric: str, part: str
) -> list[str]:
    """losses, scores: (step, value) in order."""
    sentences = []
    if len(losses) > 1:
        (_, first), (step, last) = losses[0], losses[-1]
        change = "fell" if last < first else "rose"
        sentences.append(f"The training loss {change} from {first:.3g} to {last:.3g} over {many(int(step), 'step')}.")
    if len(scores) > 3:
        late = scores[-1][1] - scores[len(scores) * 3 // 4 - 1][1]
        gained = f"{abs(100 * late):.1f} points"
        sentences.append(
            f"{metric} on the {escape_text(part)} part went from {format_percent(scores[0][1])} to "
            f"{format_percent(scores[-1][1])}; it {'rose' if late >= 0 else 'fell'} by {gained} in the last quarter "
            "of the run."
        )
    return sentences


def describe_confusions(confusion: np.ndarray, classes: Sequence[str]) -> list[str]:
    """The three classes with the highest error rate to one other class; confusion [K K], rows are annotations."""
    wrong = confusion - np.diag(confusion.diagonal())
    if not wrong.sum():
        return ["No image was misclassified."]
    sentences = []
    shares = wrong / confusion.sum(1, keepdims=True).clip(1)
    for row in np.argsort(-shares.max(1), kind="stable")[:3]:
        column = int(shares[row].argmax())
        if count := int(wrong[row, column]):
            times = f"{format_percent(shares[row, column], 0)} of the time ({count:,} of {int(confusion[row].sum()):,})"
            sentences.append(f"{escape_name(classes[row])} is predicted as {escape_name(classes[column])} {times}.")
    return sentences


def describe_classes(table: dict[str, list[float]], classes: Sequence[str]) -> list[str]:
    f1, count = np.array(table["f1"]), np.array(table["count"])
    present = np.flatnonzero(count > 0)
    if len(present) < 2:
        return []
    best, worst = present[f1[present].argmax()], present[f1[present].argmin()]
    sentences = [
        f"Best is {escape_name(classes[best])} (F1 {f1[best]:.2f}), hardest {escape_name(classes[worst])} "
        f"(F1 {f1[worst]:.2f}): recall {format_percent(table['recall'][worst], 0)}, "
        f"precision {format_percent(table['precision'][worst], 0)}."
    ]
    if missing := len(classes) - len(present):
        sentences.append(f"{format_plural(missing, 'class does', 'classes do')} not occur in this part.")
    return sentences


def describe_calibration(rows: Sequence[Sequence[float]], error: float) -> list[str]:
    """rows: (mean confidence, accuracy, count) per bin; error: the expected calibration error."""
    confidence, right, count = np.array(rows, float).T
    mean_confidence, accuracy = ((values * count).sum() / count.sum() for values in (confidence, right))
    top, noise = int(count.argmax()), chance_difference(accuracy, int(count.sum())) / np.sqrt(2)
    return [
        f"Mean confidence {format_percent(mean_confidence, 0)}, accuracy {format_percent(accuracy, 0)}: "
        f"{describe_confidence(mean_confidence - accuracy, noise)}. In the largest bin "
        f"({format_plural(int(count[top]), 'image')}) the mean confidence is {format_percent(confidence[top], 0)} "
        f"and the accuracy {format_percent(right[top], 0)}.",
        f"Expected calibration error {error:.3f}: confidence is {100 * error:.1f} points off on average.",
    ]


def describe_confidence(gap: float, noise: float = 0.0) -> str:
    """noise: the gap that chance explains."""
    if abs(gap) < 0.01:
        return "well calibrated"
    if abs(gap) < noise:
        return "no difference beyond chance for so few images"
    degree = "slightly" if abs(gap) < 0.05 else "clearly" if abs(gap) < 0.15 else "strongly"
    return f"{degree} {'overconfident' if gap > 0 else 'underconfident'}"


def describe_cost(cost: Cost, parts: Sequence[tuple[str, int]]) -> list[str]:
    """parts: names and multiply-adds, which sum to the whole."""
    most = max(parts, key=lambda part: part[1], default=("", 0))
    where = (
        f", {format_percent(most[1] / cost.macs, 0)} of them in {escape_text(most[0])}"
        if cost.macs and len(parts) > 1
        else ""
    )
    return [
        f"One image takes {format_short(cost.macs)} multiply-adds{where}; "
        f"the weights take {cost.parameter_bytes / 2**20:.1f} MiB."
    ]


def describe_balance(counts: np.ndarray, classes: Sequence[str]) -> str:
    """How evenly the training images are spread; counts [K]."""
    least, most = int(counts.argmin()), int(counts.argmax())
    if counts[most] < 1.5 * counts[least]:
        return f"The classes are balanced: {int(counts[least]):,} to {int(counts[most]):,} training images each."
    few = f"{escape_name(classes[least])} the fewest ({int(counts[least]):,})"
    return f"{escape_name(classes[most])} has the most training images ({int(counts[most]):,}), {few}."
