"""The figures of the study."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vitrail.studies._bench.result import figure_svg

Curves = Mapping[str, Mapping[float, Sequence[float]]]  # by model, by x value: one number per seed


def figure(columns: int, rows: int = 1) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    chart = Figure(figsize=(4.2 * columns, 3.5 * rows), layout="constrained")
    return chart, list(chart.subplots(rows, columns, squeeze=False).flat)


def curves(axis: Any, by_model: Curves, title: str, across: str, factor: float = 100.0) -> None:
    """Means with the standard deviation over seeds, a line per model."""
    for number, (name, line) in enumerate(by_model.items()):
        xs = sorted(line)
        values = [factor * np.array(line[x]) for x in xs]
        spread = [v.std(ddof=1) if len(v) > 1 else 0.0 for v in values]
        axis.errorbar(xs, [v.mean() for v in values], spread, color=f"C{number}", marker="o", markersize=4, label=name)
    axis.set(title=title, xlabel=across)
    axis.grid(alpha=0.3)


def data_efficiency(accuracy: Curves, macs: Mapping[str, float], best: Mapping[str, Sequence[float]]) -> bytes:
    """Accuracy over the fraction of the training images, and, for the greatest, over multiply-adds."""
    chart, (left, right) = figure(2)
    curves(left, {name: {100 * s: v for s, v in line.items()} for name, line in accuracy.items()}, "data efficiency",
           "training images, %")  # fmt: skip
    left.set(xscale="log", ylabel="accuracy, %")
    left.legend(fontsize="small")
    curves(right, {name: {macs[name]: best[name]} for name in macs}, "compute", "multiply-adds an image, millions")
    right.set(xscale="log")
    return figure_svg(chart)


def shift(accuracy: Curves, same: Curves) -> bytes:
    chart, (left, right) = figure(2)
    curves(left, accuracy, "accuracy, shifted", "pixels")
    curves(right, same, "unchanged predictions", "pixels")
    left.set(ylabel="%")
    left.legend(fontsize="small")
    return figure_svg(chart)


def disturbed(by_kind: Mapping[str, Curves]) -> bytes:
    """by_kind: accuracy by corruption and level; 0 is the original image."""
    chart, axes = figure(4, -(-len(by_kind) // 4))
    for axis, (kind, lines) in zip(axes, by_kind.items(), strict=False):
        levels = list(next(iter(lines.values())))
        numbered = {name: {float(i): values for i, values in enumerate(line.values())} for name, line in lines.items()}
        curves(axis, numbered, kind, "level")
        axis.set_xticks(range(len(levels)), ["original", *(f"{level:g}" for level in levels[1:])])
    for axis in axes[len(by_kind) :]:
        axis.set_axis_off()
    axes[0].set_ylabel("accuracy, %")
    axes[0].legend(fontsize="small")
    return figure_svg(chart)


def fields(radii: Mapping[str, Sequence[Sequence[float]]], even: float) -> bytes:
    """Radius over depth, from the first block to the last."""
    chart, (axis,) = figure(1)
    lines = {}
    for name, each in radii.items():
        depth = len(each[0])
        lines[name] = {(i + 1) / depth: [one[i] for one in each] for i in range(depth)}
    curves(axis, lines, "effective receptive field", "depth, fraction of the blocks", 1.0)
    axis.axhline(even, color="0.6", linestyle="--", label="uniform over the image")
    axis.set(ylabel="radius, pixels", ylim=(0, None))
    axis.legend(fontsize="small")
    return figure_svg(chart)
