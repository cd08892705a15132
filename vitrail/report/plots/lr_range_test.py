"""Plots the loss of a learning rate range test."""

from pathlib import Path
from typing import Any

from vitrail.errors import UsageError


def plot_losses(result: Any, file: Path) -> None:
    """The loss over the learning rate, raw and smoothed, and the suggested one. Equal numbers give equal bytes."""
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    lrs = [p.lr for p in result.points]
    axes.plot(lrs, [p.loss for p in result.points], color="0.75", linewidth=1, label="loss")
    axes.plot(lrs, [p.smooth for p in result.points], color="C0", linewidth=2, label="smoothed")
    axes.axvline(result.advice.lr, color="C1", linestyle="--", label=f"suggested: {result.advice.lr:.2g}")
    highest = max(result.points[0].loss, max(p.smooth for p in result.points[: len(result.points) // 2])) * 1.5
    lowest = min(p.loss for p in result.points)
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
