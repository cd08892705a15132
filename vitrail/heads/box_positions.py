"""Position encodings of cells and boxes: sines over the unpadded part of a map, sines of boxes, and the attention bias
of boxes."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.heads.detr_layers import build_mlp
from vitrail.shapes import Bool, Float, Shaped

EPSILON = 1e-6  # added to the count of cells in the denominator, as in the original


def sines(places: Float[Tensor, "*B"], width: int) -> Float[Tensor, "*B {width}"]:
    """Alternating sines and cosines of angles [...] -> [... width], wavelengths from 2 pi to 10000 times that."""
    step = torch.arange(width // 2, dtype=torch.float32, device=places.device)
    angles = places[..., None] / 10000.0 ** (2 * step / width)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def cells_inside(extents: Shaped[Tensor, " B"], canvas: int, cells: int) -> Bool[Tensor, "B {cells}"]:
    """Whether each of `cells` in a row is not padding: extents of images [B] in pixels of a canvas -> bool [B cells].
    Nearest pixel, as DETR."""
    pixels = torch.arange(canvas, device=extents.device) < extents[:, None]  # [B canvas]
    return F.interpolate(pixels[:, None].float(), size=cells)[:, 0] > 0.5


def sine_positions(
    rows: Bool[Tensor, "B h"], columns: Bool[Tensor, "B w"], width: int
) -> Float[Tensor, "B h*w {width}"]:
    """DETR's sines of a map: rows and columns that are not padding, bool [B h] and [B w] -> [B h*w width], the row's
    half first.

    Cells are counted from one over the unpadded part and the count is scaled to a full circle (Carion et al. 2020,
    appendix A.4 and code).
    """
    halves = []
    for inside in (rows, columns):
        count = inside.float().cumsum(1)
        halves.append(sines(count / (count[:, -1:] + EPSILON) * (2 * math.pi), width // 2))
    h, w = rows.shape[1], columns.shape[1]
    y, x = halves[0][:, :, None].expand(-1, -1, w, -1), halves[1][:, None].expand(-1, h, -1, -1)
    return torch.cat([y, x], dim=-1).flatten(1, 2)


def cell_centers(extents: Shaped[Tensor, " B"], canvas: int, cells: int) -> Float[Tensor, "B {cells}"]:
    """The centres of cells as shares of the image: extents [B] -> [B cells]; beyond 1 is padding."""
    middle = (torch.arange(cells, device=extents.device) + 0.5) / cells
    return middle * canvas / extents[:, None]


def sines_of_boxes(boxes: Float[Tensor, "*B 4"], width: int) -> Float[Tensor, "*B W"]:
    """[B Q 4] centre x, centre y, width, height -> [B Q 2*width], each encoded as in `sine_positions` (Liu et al. 2022,
    DAB-DETR)."""
    y_first = boxes[..., [1, 0, 3, 2]]
    return sines(y_first * (2 * math.pi), width // 2).flatten(-2)


class BoxBias(nn.Module):
    """The bias on the cross-attention logits of a query, by head, from the positions of cells relative to the edges of
    its box: a small MLP for rows and one for columns, summed (Lin et al. 2023, "DETR does not need multi-scale or
    locality design", section 4.1). A query so attends to its box from the first step on, which plain DETR takes
    hundreds of epochs to learn."""

    def __init__(self, heads: int, hidden: int = 64):
        super().__init__()
        self.rows, self.columns = build_mlp(2, hidden, heads, 2), build_mlp(2, hidden, heads, 2)
        for part in (self.rows, self.columns):
            part[-1].register_parameter("bias", None)  # the same for all cells, so softmax cancels it

    def forward(
        self, boxes: Float[Tensor, "B Q 4"], rows: tuple[Tensor, ...], columns: tuple[Tensor, ...]
    ) -> Float[Tensor, "B heads Q N"]:
        """Boxes [B Q 4] and the centres of each map's rows [B h] and columns [B w] -> [B heads Q N]."""
        # [B heads Q, h of all maps], likewise across
        down = self.rows(edge_distances(boxes[..., 1], boxes[..., 3], torch.cat(rows, dim=1))).movedim(-1, 1)
        across = self.columns(edge_distances(boxes[..., 0], boxes[..., 2], torch.cat(columns, dim=1))).movedim(-1, 1)
        each = zip(
            down.split([y.shape[1] for y in rows], -1), across.split([x.shape[1] for x in columns], -1), strict=True
        )
        return torch.cat([(y[..., :, None] + x[..., None, :]).flatten(-2) for y, x in each], dim=-1)


def edge_distances(
    middle: Float[Tensor, "B Q"], extent: Float[Tensor, "B Q"], places: Float[Tensor, "_ n"]
) -> Float[Tensor, "B Q n 2"]:
    """Distances of cells to the two edges of boxes along one axis, on a logarithmic scale: [B Q], [B Q], [B n] -> [B Q
    n 2]."""
    edges = torch.stack([middle - extent / 2, middle + extent / 2], dim=-1)  # [B Q 2]
    away = (edges[:, :, None] - places[:, None, :, None]) * 16
    return away.sign() * away.abs().log1p()
