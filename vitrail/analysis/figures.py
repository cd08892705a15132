"""Figures of the results of this folder. Each function returns a matplotlib `Figure` outside pyplot's global state;
matplotlib is imported when one is drawn."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from vitrail.analysis.attention import LayerAttention
from vitrail.analysis.cam import resize_to_image
from vitrail.analysis.distance import Profile
from vitrail.analysis.gradient_flow import BlockFlow
from vitrail.analysis.positions import Encoding, Filters
from vitrail.analysis.tokens import CkaMatrix, TokenColors, TokenSimilarity
from vitrail.data.encode import to_rgb

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEAT = "inferno"
STRENGTH = 0.6  # of the colours over an image
TILE = 1.4  # inches


def overlay(image: np.ndarray, heat: Tensor, extent: Sequence[int] | None = None) -> np.ndarray:
    """A map [h w] in colours over an image uint8 [H W C], scaled from its minimum to its maximum: uint8 [H W 3].

    extent: height and width in pixels that the map covers, see `Cells.extent`, where padding makes it more than the
    image.
    """
    from matplotlib import colormaps

    large = resize_to_image(heat.detach().float().cpu(), image.shape[:2], extent)
    low, high = large.min(), large.max()
    level = ((large - low) / (high - low).clamp(min=1e-12)).numpy()
    colours = 255 * colormaps[HEAT](level)[:, :, :3]
    return np.rint((1 - STRENGTH) * to_rgb(image) + STRENGTH * colours).astype(np.uint8)


def tiles(rows: int, columns: int, side: float = TILE) -> tuple["Figure", Any]:
    """A figure of axes without frames, [rows columns]."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(side * columns + 0.3, side * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    return figure, axes


def create_charts(count: int) -> tuple["Figure", Any]:
    """A figure of `count` charts side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * count, 3.6), layout="constrained")
    return figure, figure.subplots(1, count, squeeze=False)[0]


def draw_attention(
    image: np.ndarray, attentions: Sequence[LayerAttention], query: int | tuple[int, int] | None = None, index: int = 0
) -> "Figure":
    """The attention of each head (across) of each layer (down) on one image of a batch: from one query, see
    `LayerAttention.attention_from`, or the mean over queries. Layers without a map of keys are omitted."""
    layers = [one for one in attentions if one.keys.maps]
    figure, axes = tiles(max(1, len(layers)), max([one.parts.shape[2] for one in layers], default=1))
    for row, one in zip(axes, layers, strict=False):
        heads = (one.attention_to() if query is None else one.attention_from(query))[index]
        for axis, heat in zip(row, heads, strict=False):
            axis.imshow(overlay(image, heat, one.keys.maps[0].extent))
        row[0].set_title(one.name, fontsize=7, loc="left")
    return figure


def draw_heat_maps(images: Sequence[np.ndarray], maps: Tensor, titles: Sequence[str] = ()) -> "Figure":
    """Images above, the same with their maps [B h w] below: of rollout, relevance or gradient CAM."""
    figure, axes = tiles(2, len(images), 2.0)
    for i, image in enumerate(images):
        axes[0][i].imshow(to_rgb(image))
        axes[1][i].imshow(overlay(image, maps[i]))
    for axis, title in zip(axes[0], titles, strict=False):
        axis.set_title(title, fontsize=8)
    return figure


def draw_distances(profiles: Sequence[Profile]) -> "Figure":
    """Mean distance in pixels and share of the maximum entropy over layers, a dot per head."""
    figure, axes = create_charts(2)
    for axis, values, title in (
        (axes[0], [p.distance for p in profiles], "mean attention distance, pixels"),
        (axes[1], [p.entropy_share for p in profiles], "entropy, share of log N"),
    ):
        for layer, heads in enumerate(values):
            axis.scatter([layer] * len(heads), heads.tolist(), s=12, color="C0")
        axis.plot([float(heads.mean()) for heads in values], color="C1", label="mean of heads")
        axis.set(title=title, xlabel="layer", ylim=(0, None))
        axis.legend(fontsize="small")
    return figure


def draw_positions(encoding: Encoding) -> "Figure":
    """Tiles of similarity, one per cell at its position; or the bias by displacement, one per head, red where
    positive."""
    panels = encoding.panels()
    figure, axes = tiles(panels.values.shape[0], panels.values.shape[1], panels.side)
    for row, values in zip(axes, panels.values, strict=True):
        for axis, panel in zip(row, values, strict=True):
            mappable = axis.imshow(panel.numpy(), cmap=panels.colours, vmin=panels.low, vmax=panels.high)
    figure.colorbar(mappable, ax=axes)
    figure.suptitle(f"{encoding.name} ({encoding.kind})", fontsize=9)
    return figure


def draw_filters(filters: Filters, across: int = 7) -> "Figure":
    """Components as images, in colour where they have three channels, each with its share of the variance."""
    count = len(filters.images)
    figure, axes = tiles(-(-count // across), min(across, count), 1.0)
    for axis, component, share in zip(axes.flat, filters.images, filters.shares.tolist(), strict=False):
        image = 0.5 + 0.5 * component / component.abs().max().clamp(min=1e-12)
        axis.imshow((image.permute(1, 2, 0) if len(image) == 3 else image[0]).numpy(), cmap="gray", vmin=0, vmax=1)
        axis.set_title(f"{share:.1%}", fontsize=7)
    return figure


def draw_similarity(similarities: Sequence[tuple[str, TokenSimilarity]]) -> "Figure":
    """The similarity of patches after each block, a line for each named model."""
    figure, (axis,) = create_charts(1)
    for name, similarity in similarities:
        axis.plot(range(1, len(similarity.names) + 1), similarity.cosine.tolist(), marker=".", label=name)
    axis.set(title="mean cosine between patches", xlabel="block", ylim=(None, 1))
    axis.legend(fontsize="small")
    return figure


def draw_token_colors(image: np.ndarray, blocks: Sequence[TokenColors], index: int = 0, across: int = 6) -> "Figure":
    """An image and its patches after each block in colours."""
    count = len(blocks) + 1
    figure, axes = tiles(-(-count // across), min(across, count))
    axes.flat[0].imshow(to_rgb(image))
    for axis, one in zip(axes.flat[1:], blocks, strict=False):
        axis.imshow(one.images[index].numpy())
        axis.set_title(one.name.removeprefix("backbone."), fontsize=6)
    return figure


def draw_cka(cka: CkaMatrix, names: tuple[str, str] = ("block", "block")) -> "Figure":
    """CKA between layers, with the first model on the vertical axis."""
    figure, (axis,) = create_charts(1)
    mappable = axis.imshow(cka.values.numpy(), cmap="magma", vmin=0, vmax=1, origin="lower")
    axis.set(title="linear CKA", ylabel=names[0], xlabel=names[1])
    figure.colorbar(mappable, ax=axis)
    return figure


def draw_gradient_flow(flows: Sequence[BlockFlow]) -> "Figure":
    """By block: norms of activations and of gradients, with those of its parts, and the share of each residual
    branch."""
    figure, axes = create_charts(3)
    blocks = range(1, len(flows) + 1)
    for axis, number, title in (
        (axes[0], 0, "activations, root mean square"),
        (axes[1], 1, "gradients, root mean square"),
    ):
        axis.plot(blocks, [one.out[number] for one in flows], color="black", marker=".", label="block")
        for part in dict.fromkeys(part for one in flows for part in one.parts):
            values = [(i, one.parts[part][number]) for i, one in zip(blocks, flows, strict=True) if part in one.parts]
            axis.plot(*zip(*values, strict=True), linewidth=1, label=part)
        axis.set(title=title, xlabel="block", yscale="symlog" if any(one.out[number] == 0 for one in flows) else "log")
    for branch in range(max((len(one.branches) for one in flows), default=0)):
        values = [(i, one.branches[branch]) for i, one in zip(blocks, flows, strict=True) if branch < len(one.branches)]
        axes[2].plot(*zip(*values, strict=True), marker=".", label=f"branch {branch + 1}")
    axes[2].set(title="|branch| / |x + branch|", xlabel="block", ylim=(0, None))
    for axis in axes:
        if 0 < len(axis.lines) <= 12:
            axis.legend(fontsize="x-small")
    return figure


def draw_panels(panels: Sequence[tuple[str, np.ndarray]], across: int = 3, side: float = 3.2) -> "Figure":
    """Images uint8 [H W 3], each below its title, in rows of so many."""
    across = min(across, len(panels))
    figure, axes = tiles(-(-len(panels) // across), across, side)
    for axis, (title, pixels) in zip(axes.flat, panels, strict=False):
        axis.imshow(pixels)
        axis.set_title(title, fontsize=9)
    return figure


def draw_weights(one: LayerAttention, head: int = 0, index: int = 0) -> "Figure":
    """The full weight matrix of one head, queries down and keys across."""
    figure, (axis,) = create_charts(1)
    mappable = axis.imshow(one.weights[index, head].numpy(), cmap=HEAT)
    axis.set(title=f"{one.name}, head {head}", ylabel="query", xlabel="key")
    figure.colorbar(mappable, ax=axis)
    return figure
