"""Plots a sweep over the guidance scale, a line per EMA of the weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vitrail.errors import UsageError

STYLES = ("-", "--", ":")


def plot_sweep(points: Sequence[Any], file: Path) -> Path:
    """Fréchet distance, precision and recall over guidance, a line for each average. Equal numbers give equal bytes."""
    import matplotlib

    from vitrail.analysis.figures import create_charts

    figure, (left, right) = create_charts(2)
    for colour, average in enumerate(dict.fromkeys(p.average for p in points)):
        line = sorted((p for p in points if p.average == average), key=lambda p: p.guidance)
        across = [p.guidance for p in line]
        left.plot(
            across,
            [p.quality.metrics["frechet"] for p in line],
            color=f"C{colour}",
            marker=".",
            label=f"average {average}",
        )
        for style, name in zip(STYLES, ("precision", "recall"), strict=False):
            values = [p.quality.metrics[name] for p in line]
            right.plot(across, values, style, color=f"C{colour}", marker=".", label=f"{name}, average {average}")
    left.set(title="Fréchet distance", xlabel="guidance")
    right.set(title="precision and recall", xlabel="guidance", ylim=(0, 1.02))
    for axis in (left, right):
        axis.grid(True, alpha=0.3)
        axis.legend(fontsize="small")
    with matplotlib.rc_context({"svg.hashsalt": "vitrail", "svg.fonttype": "none"}):
        try:
            figure.savefig(file, metadata={"Date": None})
        except OSError as error:
            raise UsageError(
                f"{file} cannot be written: {error.strerror or error}", "free the space it needs"
            ) from None
    return file
