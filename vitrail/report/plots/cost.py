"""Plots the cost over the image size, a line per model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vitrail.analysis.cost_growth import Grown
from vitrail.validation import as_path

MARKS = "osD^vPX*"


def draw(models: Sequence[Grown], file: str) -> None:
    """Two log-log panels over the side of the image: multiply-adds, and memory of the attention weights.

    The side is that of a square with as many pixels. The same numbers give the same bytes.
    """
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for mark, (name, costs) in zip(MARKS * len(models), models, strict=False):
        ordered = sorted(costs, key=lambda c: c.size[0] * c.size[1])
        sides = [(c.size[0] * c.size[1]) ** 0.5 for c in ordered]
        left.plot(sides, [c.macs / 1e9 for c in ordered], marker=mark, label=name)
        if all(c.attention_bytes for c in ordered):
            right.plot(sides, [c.attention_bytes / 2**20 for c in ordered], marker=mark, label=name)
        else:
            right.plot([], [], marker=mark, label=f"{name}: none")
    title(left, "multiply-adds of one image, G", models)
    batch = models[0].costs[0].batch
    title(right, f"attention weights of {'one image' if batch == 1 else f'{batch} images'} in memory, MiB", models)
    settings: Any = {"svg.hashsalt": "vitrail", "svg.fonttype": "none"}
    with matplotlib.rc_context(settings):
        figure.savefig(as_path(file), metadata={"Date": None} if Path(file).suffix.lower() == ".svg" else None)


def title(axes: Any, text: str, models: Sequence[Grown]) -> None:
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    sides = sorted({round((c.size[0] * c.size[1]) ** 0.5) for _, costs in models for c in costs})
    axes.set(xscale="log", yscale="log", title=text, xlabel="side of the image, pixels")
    axes.set_xticks(sides)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(True, which="major", alpha=0.3)
    axes.legend()
