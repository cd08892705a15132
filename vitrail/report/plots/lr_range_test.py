"""Draws the loss of a range test over the learning rate."""

from pathlib import Path
from typing import Any

from vitrail.errors import UsageError


def draw(found: Any, file: Path) -> None:
    """The loss over the rate, as it was and smoothed, with the rate that is suggested. The same numbers make the same bytes."""
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    rates = [p.rate for p in found.points]
    axes.plot(rates, [p.loss for p in found.points], color="0.75", linewidth=1, label="loss")
    axes.plot(rates, [p.smooth for p in found.points], color="C0", linewidth=2, label="smoothed")
    axes.axvline(found.advice.rate, color="C1", linestyle="--", label=f"suggested: {found.advice.rate:.2g}")
    highest = max(found.points[0].loss, max(p.smooth for p in found.points[: len(found.points) // 2])) * 1.5
    lowest = min(p.loss for p in found.points)
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss", ylim=(lowest - 0.05 * (highest - lowest), highest))
    axes.grid(True, alpha=0.3)
    axes.legend()
    with matplotlib.rc_context({"svg.hashsalt": "vitrail", "svg.fonttype": "none"}):
        try:
            figure.savefig(file, metadata={"Date": None} if file.suffix.lower() == ".svg" else None)
        except OSError as error:
            raise UsageError(
                f"{file} cannot be written: {error.strerror or error}", "--plot names another place"
            ) from None
