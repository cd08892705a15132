"""Position encodings of a model, without any image: tables, rotations and relative biases; and the filters of the first
layer."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.analysis.hooks import backbone_of
from vitrail.errors import UsageError
from vitrail.layers.attention import named_attentions
from vitrail.layers.position import Position
from vitrail.layers.relative import Displacements
from vitrail.layers.rotary import Rotation
from vitrail.types import Grid


class Panels(NamedTuple):
    """The plot of an encoding: panels [rows columns h w] of colours between `low` and `high`."""

    values: Tensor
    low: float
    high: float
    colours: str  # the name of a colour map
    side: float  # of a panel, in inches


@dataclass(frozen=True)
class Encoding(ABC):
    """The position encoding of one module. name: of the module."""

    name: str
    values: Tensor

    @property
    @abstractmethod
    def kind(self) -> str:
        """The kind of encoding in a word."""

    @abstractmethod
    def panels(self) -> Panels:
        """The panels of its plot."""

    @abstractmethod
    def sentences(self) -> list[str]:
        """A summary in plain sentences."""


@dataclass(frozen=True)
class Similarity(Encoding):
    """The similarity of two cells, [h w h w]: one panel per cell. "table": the cosine of their encodings. "rotary": the
    effect of rotation alone on the product of their query and key; 1 for a cell and itself."""

    source: Literal["table", "rotary"]

    @property
    def kind(self) -> str:
        return self.source

    def panels(self) -> Panels:
        return Panels(self.values, -1.0, 1.0, "viridis", 0.5)

    def sentences(self) -> list[str]:
        near, far = self.near_and_far()
        if not np.isfinite([near, far]).all():
            return [f"{self.name}: the grid is too small to compare near and far cells."]
        how = "clearly" if near > far + 0.5 else "somewhat" if near > far + 0.1 else "hardly"
        return [
            f"{self.name} ({self.kind}): direct neighbours have a mean similarity of {near:.2f}, cells half the grid "
            f"apart and farther {far:.2f}: near cells are {how} more similar than distant ones."
        ]

    def near_and_far(self) -> tuple[float, float]:
        """The mean for cells that share an edge, and for those at least half the grid apart in a direction; NaN where
        there are none."""
        values = self.values.numpy()
        h, w = values.shape[:2]
        cells = np.stack(np.meshgrid(np.arange(h), np.arange(w), indexing="ij"), -1).reshape(-1, 2)
        apart = np.abs(cells[:, None] - cells[None])
        flat = values.reshape(h * w, h * w)
        direct, distant = apart.sum(-1) == 1, ((apart >= (max(2, h / 2), max(2, w / 2))).any(-1))
        near, far = (float(flat[which].mean()) if which.any() else float("nan") for which in (direct, distant))
        return near, far


@dataclass(frozen=True)
class Bias(Encoding):
    """The bias on the logits by displacement of the key from the query: [heads 2h-1 2w-1]; one panel per head."""

    @property
    def kind(self) -> str:
        return "relative"

    def panels(self) -> Panels:
        most = max(float(self.values.abs().max()), 1e-12)
        return Panels(self.values[None], -most, most, "RdBu_r", 1.4)

    def sentences(self) -> list[str]:
        nearer, farther = self.near_and_far()
        more = int((nearer > farther).sum())
        near = "have a larger bias for adjacent keys than for keys half a window away and farther"
        return [f"{self.name}: {more} of {len(nearer)} heads {near}."]

    def near_and_far(self) -> tuple[np.ndarray, np.ndarray]:
        """By head the mean bias one cell away, and half a window away and farther."""
        values = self.values.numpy()
        h, w = values.shape[1] // 2, values.shape[2] // 2
        down, across = np.abs(np.arange(-h, h + 1))[:, None], np.abs(np.arange(-w, w + 1))[None]
        direct, distant = down + across == 1, (down >= max(1, (h + 1) / 2)) | (across >= max(1, (w + 1) / 2))
        return values[:, direct].mean(1), values[:, distant].mean(1)


class Filters(NamedTuple):
    """Principal components of filters: images [n C p p], of unit length, and the share of the variance that each
    explains [n]."""

    images: Tensor
    shares: Tensor


@torch.no_grad()
def find_encodings(model: nn.Module, grid: Grid | None = None) -> list[Encoding]:
    """All position encodings of a model. grid: (height, width) in cells for tables and rotations, by default the grid
    that they were built for. Errors: `UsageError` for a model that has none."""
    backbone = backbone_of(model)
    encodings = list(encodings_of(backbone, grid))
    if not encodings:
        raise UsageError(
            f"{type(backbone).__name__} has no position encoding",
            "there is nothing to plot: its convolutions infer positions from zero padding",
        )
    return encodings


def encodings_of(backbone: nn.Module, grid: Grid | None) -> Iterator[Encoding]:
    inside = named_attentions(backbone)
    rotations = list[Tensor]()
    for name, module in backbone.named_modules():
        if isinstance(module, Position):
            at = grid or module.grid
            yield Similarity(name, similarity(module.encoding(at), at), "table")
        elif isinstance(module, Rotation):
            at = at_grid(module, grid)
            angles = module.angles(at)
            if not any(torch.equal(angles, other) for other in rotations):  # not learned, so the same in all layers
                rotations.append(angles)
                yield Similarity(name, kernel(angles, at), "rotary")
        elif isinstance(module, Displacements):
            owner = name.rpartition(".")[0]
            yield Bias(owner if owner in inside else name, module.by_displacement().detach().float().cpu())


def at_grid(rotation: Rotation, grid: Grid | None) -> Grid:
    """The grid of a rotation. Errors: `UsageError` where neither the caller nor the model defines one."""
    at = grid or rotation.grid
    if at is None:
        raise UsageError("the model's rotations have no grid of their own", "pass grid=(height, width)")
    return at


def similarity(table: Tensor, grid: Grid) -> Tensor:
    """The cosine between the rows of a table [hw D]: [h w h w]."""
    unit = F.normalize(table.detach().double().cpu(), dim=1)
    return (unit @ unit.T).float().view(*grid, *grid)


def kernel(angles: Tensor, grid: Grid) -> Tensor:
    """The mean over pairs of channels of the cosine of the difference between the angles [hw pairs] of two cells: [h w
    h w].

    It is the ratio of q k after and before rotation, for equal q and k with pairs of equal length.
    """
    features = torch.cat([angles.cos(), angles.sin()], dim=1).double().cpu()
    return (features @ features.T / angles.shape[1]).float().view(*grid, *grid)


@torch.no_grad()
def compute_filters(model: nn.Module, count: int = 28) -> Filters:
    """The first principal components of the first layer's filters, minus the mean filter (Dosovitskiy et al. 2020,
    figure 7). Errors: `UsageError` for a model whose first layer is no convolution or patch embedding."""
    first = next((m for m in backbone_of(model).modules() if isinstance(m, nn.Conv2d)), None)
    if first is None or count < 1:
        raise UsageError(
            "the model has no convolution" if first is None else f"there are no {count} components",
            "use a backbone of vitrail" if first is None else "use 1 or more",
        )
    weight = first.weight.detach().double().cpu()
    rows = weight.flatten(1) - weight.flatten(1).mean(0)
    _, lengths, components = torch.linalg.svd(rows, full_matrices=False)
    n = min(count, len(components))
    components = components[:n]
    # the sign of the largest element, so that the same filters have the same components
    signs = components.gather(1, components.abs().argmax(1, keepdim=True)).sign()
    shares = lengths.square() / lengths.square().sum().clamp(min=1e-300)
    return Filters((components * signs).float().view(n, *weight.shape[1:]), shares[:n].float())
