"""Large images cut into tiles that overlap, with the boxes in each; and what was found in the tiles put together again."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from vitrail.data.annotations.boxes import BoxReader, crop_boxes, pack_boxes
from vitrail.data.dataset import Split
from vitrail.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

KEPT = 256 * 2**20  # bytes of whole images that are held decoded
INSIDE = 0.4  # share of a box's area that must be in a tile for the box to be in it
CUT = 0.5  # factor on the score of a box that a border of a tile may have cut, when boxes are ranked
COVERED = 0.8  # share of such a box within a whole one of its class from which both are the same object
BORDER = 1.0  # pixels from the border of a tile within which a box counts as cut


class RecentImages:
    """Reads images and keeps those that were asked for last, in every process for itself: a tile needs the whole image decoded, and in
    training the tiles of all images are mixed. The last one is kept whatever its size."""

    def __init__(self, read: Callable[[int], np.ndarray]):
        self.read = read
        self.lock = Lock()
        self.kept: OrderedDict[int, np.ndarray] = OrderedDict()

    def __call__(self, index: int) -> np.ndarray:
        with self.lock:
            if index not in self.kept:
                self.kept[index] = self.read(index)
                while len(self.kept) > 1 and sum(image.nbytes for image in self.kept.values()) > KEPT:
                    self.kept.popitem(last=False)
            self.kept.move_to_end(index)
            return self.kept[index]

    def __reduce__(self) -> tuple[type["RecentImages"], tuple[Any]]:
        return RecentImages, (self.read,)


@dataclass(frozen=True)
class TileReader:
    """Reads tile i. whole: reads whole images. images: int64 [T], which image. places: int64 [T 4] left, top, right, bottom in it."""

    whole: RecentImages
    images: np.ndarray
    places: np.ndarray

    def __call__(self, index: int) -> np.ndarray:
        left, top, right, bottom = self.places[index]
        return np.ascontiguousarray(self.whole(int(self.images[index]))[top:bottom, left:right])


def tile_positions(size: tuple[int, int], tile: int, overlap: float) -> np.ndarray:
    """int64 [T 4]: left, top, right, bottom of the tiles of an image of (height, width). The last of a row ends at the border; an image
    that is smaller than a tile is one tile."""
    step = max(1, round(tile * (1 - overlap)))
    rows, columns = (np.unique([*range(0, max(1, side - tile), step), max(0, side - tile)]) for side in size)
    corners = [(x, y, min(x + tile, size[1]), min(y + tile, size[0])) for y in rows for x in columns]
    return np.array(corners, np.int64)


def tile_split(
    split: Split, sizes: Sequence[tuple[int, int] | None], tile: int, overlap: float, empty: bool = True
) -> Split:
    """The tiles of a split of images with boxes, named `image [left,top]`. sizes: (height, width) of each image; one without stays
    whole, as it cannot be read. A box is in a tile if at least `INSIDE` of its area is; it is cut at the border. empty: keep tiles
    without any box."""
    if not 0 <= overlap < 1:
        raise UsageError(f"data.overlap is {overlap}", "it is a share of a tile: at least 0 and below 1")
    assert split.annotation is not None
    names, found, images, corners = [], [], [], []
    for i, size in enumerate(sizes):
        annotation = split.annotation(i)
        for place in tile_positions(size, tile, overlap) if size else np.zeros((1, 4), np.int64):
            own = crop_boxes(annotation, place, INSIDE) if size else annotation
            if not (empty or len(own.labels)):
                continue
            names.append(f"{split.names[i]} [{place[0]},{place[1]}]")
            found.append(own)
            images.append(i)
            corners.append(place)
    reader = TileReader(
        RecentImages(split.read), np.array(images, np.int64), np.array(corners, np.int64).reshape(-1, 4)
    )
    annotations: BoxReader = pack_boxes(found)
    return Split(names, np.zeros(len(names), np.int64), reader, annotations)


def touches_border(boxes: "Tensor", place: Sequence[int], size: tuple[int, int]) -> "Tensor":
    """bool [n]: which boxes, in pixels of the whole image, end at a border of their tile that is not one of the image's."""
    left, top, right, bottom = place
    found = (boxes[:, 0] < left + BORDER) & (left > 0)
    found |= (boxes[:, 1] < top + BORDER) & (top > 0)
    found |= (boxes[:, 2] > right - BORDER) & (right < size[1])
    return found | ((boxes[:, 3] > bottom - BORDER) & (bottom < size[0]))


def merge_boxes(
    boxes: "Tensor", scores: "Tensor", labels: "Tensor", iou: float, cut: "Tensor | None" = None
) -> "Tensor":
    """int64 [m]: which of the boxes found in the tiles of one image to keep, by falling score; of each class for itself.

    boxes [n 4] in pixels of the whole image. iou: from which overlap two are the same object. cut [n]: see `touches_border`; of two boxes of an
    object a whole one is kept rather than one that was cut, and a cut one goes where it lies within a whole one.
    """
    import torch
    from torchvision.ops import batched_nms

    if not len(boxes):
        return torch.zeros(0, dtype=torch.int64, device=boxes.device)
    cut = torch.zeros_like(scores, dtype=torch.bool) if cut is None else cut
    ranks = torch.where(cut, scores * CUT, scores)
    kept = batched_nms(boxes.float(), ranks.float(), labels, iou)
    some, parts = boxes[kept].float(), cut[kept]
    low, high = torch.maximum(some[:, None, :2], some[None, :, :2]), torch.minimum(some[:, None, 2:], some[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(-1)  # [m m]
    own = (some[:, 2:] - some[:, :2]).prod(-1).clamp(min=1e-6)
    same = labels[kept][:, None] == labels[kept][None]
    within = ((shared / own[:, None] >= COVERED) & same & ~parts[None]).any(1)
    kept = kept[~(parts & within)]
    return kept[scores[kept].argsort(descending=True, stable=True)]
