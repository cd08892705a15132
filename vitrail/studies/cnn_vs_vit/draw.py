"""The figures of the study."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vitrail.studies._bench.result import figure_svg

Curves = Mapping[str, Mapping[float, Sequence[float]]]  # by model, by place on the axis: one number a seed


def figure(columns: int, rows: int = 1) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    made = Figure(figsize=(4.2 * columns, 3.5 * rows), layout="constrained")
    return made, list(made.subplots(rows, columns, squeeze=False).flat)


def curves(axis: Any, found: Curves, title: str, across: str, factor: float = 100.0) -> None:
    """Means with the spread over seeds, a line a model."""
    for number, (name, line) in enumerate(found.items()):
        places = sorted(line)
        values = [factor * np.array(line[place]) for place in places]
        spread = [v.std(ddof=1) if len(v) > 1 else 0.0 for v in values]
        axis.errorbar(
            places, [v.mean() for v in values], spread, color=f"C{number}", marker="o", markersize=4, label=name
        )
    axis.set(title=title, xlabel=across)
    axis.grid(alpha=0.3)


def hunger(accuracy: Curves, macs: Mapping[str, float], best: Mapping[str, Sequence[float]]) -> bytes:
    """Accuracy over the share of the images, and, with all, over multiply-adds."""
    made, (left, right) = figure(2)
    curves(left, {name: {100 * s: v for s, v in line.items()} for name, line in accuracy.items()}, "hunger for data",
           "training images, %")  # fmt: skip
    left.set(xscale="log", ylabel="accuracy, %")
    left.legend(fontsize="small")
    curves(right, {name: {macs[name]: best[name]} for name in macs}, "compute", "multiply-adds an image, millions")
    right.set(xscale="log")
    return figure_svg(made)


def shift(accuracy: Curves, same: Curves) -> bytes:
    made, (left, right) = figure(2)
    curves(left, accuracy, "accuracy, shifted", "pixels")
    curves(right, same, "answers that stay the same", "pixels")
    left.set(ylabel="%")
    left.legend(fontsize="small")
    return figure_svg(made)


def disturbed(found: Mapping[str, Curves]) -> bytes:
    """found: accuracy by what is done; 0 is the image as it is, and levels stand side by side in their order."""
    made, axes = figure(4, -(-len(found) // 4))
    for axis, (kind, lines) in zip(axes, found.items(), strict=False):
        levels = list(next(iter(lines.values())))
        numbered = {name: {float(i): values for i, values in enumerate(line.values())} for name, line in lines.items()}
        curves(axis, numbered, kind, "level")
        axis.set_xticks(range(len(levels)), ["as it is", *(f"{level:g}" for level in levels[1:])])
    for axis in axes[len(found) :]:
        axis.set_axis_off()
    axes[0].set_ylabel("accuracy, %")
    axes[0].legend(fontsize="small")
    return figure_svg(made)


def fields(radii: Mapping[str, Sequence[Sequence[float]]], even: float) -> bytes:
    """Radius over depth, from the first block to the last."""
    made, (axis,) = figure(1)
    lines = {}
    for name, each in radii.items():
        depth = len(each[0])
        lines[name] = {(i + 1) / depth: [one[i] for one in each] for i in range(depth)}
    curves(axis, lines, "effective receptive field", "depth, share of the blocks", 1.0)
    axis.axhline(even, color="0.6", linestyle="--", label="the whole image, evenly")
    axis.set(ylabel="radius, pixels", ylim=(0, None))
    axis.legend(fontsize="small")
    return figure_svg(made)
