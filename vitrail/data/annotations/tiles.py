"""Cuts large images into overlapping tiles with their boxes, and merges the detections of tiles."""

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

CACHE_BYTES = 256 * 2**20  # of whole decoded images
INSIDE = 0.4  # minimal share of a box's area within a tile
CUT = 0.5  # factor on the score of a box possibly cut by a tile's border, in suppression
COVERED = 0.8  # share of such a box within a whole one of its class above which it is a duplicate
BORDER = 1.0  # pixels from a tile's border within which a box counts as cut


class RecentImages:
    """Reads images through a least-recently-used cache, one per process: a tile needs the whole image decoded, and in
    training the tiles of all images are mixed. The last image is cached whatever its size."""

    def __init__(self, read: Callable[[int], np.ndarray]):
        self.read = read
        self.lock = Lock()
        self.cache: OrderedDict[int, np.ndarray] = OrderedDict()

    def __call__(self, index: int) -> np.ndarray:
        with self.lock:
            if index not in self.cache:
                self.cache[index] = self.read(index)
                while len(self.cache) > 1 and sum(image.nbytes for image in self.cache.values()) > CACHE_BYTES:
                    self.cache.popitem(last=False)
            self.cache.move_to_end(index)
            return self.cache[index]

    def __reduce__(self) -> tuple[type["RecentImages"], tuple[Any]]:
        return RecentImages, (self.read,)


@dataclass(frozen=True)
class TileReader:
    """Reads tile i. whole: reads whole images. images: index of the image, int64 [T]. places: in it, int64 [T 4] left,
    top, right, bottom."""

    whole: RecentImages
    images: np.ndarray
    places: np.ndarray

    def __call__(self, index: int) -> np.ndarray:
        left, top, right, bottom = self.places[index]
        return np.ascontiguousarray(self.whole(int(self.images[index]))[top:bottom, left:right])


def tile_positions(size: tuple[int, int], tile: int, overlap: float) -> np.ndarray:
    """int64 [T 4]: left, top, right, bottom of the tiles of an image of (height, width). The last of a row ends at the
    border; an image smaller than a tile is one tile."""
    step = max(1, round(tile * (1 - overlap)))
    rows, columns = (np.unique([*range(0, max(1, side - tile), step), max(0, side - tile)]) for side in size)
    corners = [(x, y, min(x + tile, size[1]), min(y + tile, size[0])) for y in rows for x in columns]
    return np.array(corners, np.int64)


def tile_split(
    split: Split, sizes: Sequence[tuple[int, int] | None], tile: int, overlap: float, empty: bool = True
) -> Split:
    """The tiles of a split of images with boxes, named `image [left,top]`. sizes: (height, width) of each image; None,
    for an unreadable one, leaves it whole. A box is in a tile if at least `INSIDE` of its area is; it is clipped at the
    border.
    empty: keep tiles without any box."""
    if not 0 <= overlap < 1:
        raise UsageError(f"data.overlap is {overlap}", "it is a fraction of a tile: at least 0 and below 1")
    assert split.annotation is not None
    names, tile_boxes, images, corners = [], [], [], []
    for i, size in enumerate(sizes):
        annotation = split.annotation(i)
        for place in tile_positions(size, tile, overlap) if size else np.zeros((1, 4), np.int64):
            own = crop_boxes(annotation, place, INSIDE) if size else annotation
            if not (empty or len(own.labels)):
                continue
            names.append(f"{split.names[i]} [{place[0]},{place[1]}]")
            tile_boxes.append(own)
            images.append(i)
            corners.append(place)
    reader = TileReader(
        RecentImages(split.read), np.array(images, np.int64), np.array(corners, np.int64).reshape(-1, 4)
    )
    annotations: BoxReader = pack_boxes(tile_boxes)
    return Split(names, np.zeros(len(names), np.int64), reader, annotations)


def touches_border(boxes: "Tensor", place: Sequence[int], size: tuple[int, int]) -> "Tensor":
    """bool [n]: which boxes, in pixels of the whole image, end at a border of their tile inside the image."""
    left, top, right, bottom = place
    cut = (boxes[:, 0] < left + BORDER) & (left > 0)
    cut |= (boxes[:, 1] < top + BORDER) & (top > 0)
    cut |= (boxes[:, 2] > right - BORDER) & (right < size[1])
    return cut | ((boxes[:, 3] > bottom - BORDER) & (bottom < size[0]))


def merge_boxes(
    boxes: "Tensor", scores: "Tensor", labels: "Tensor", iou: float, cut: "Tensor | None" = None
) -> "Tensor":
    """int64 [m]: which boxes detected in the tiles of one image to keep, by falling score; suppression per class.

    boxes [n 4] in pixels of the whole image. iou: threshold above which two boxes are duplicates. cut [n]: see
    `touches_border`; of two duplicates a whole box wins over a cut one, and a cut one within a whole one is dropped.
    """
    import torch
    from torchvision.ops import batched_nms

    if not len(boxes):
        return torch.zeros(0, dtype=torch.int64, device=boxes.device)
    cut = torch.zeros_like(scores, dtype=torch.bool) if cut is None else cut
    priority = torch.where(cut, scores * CUT, scores)
    selected = batched_nms(boxes.float(), priority.float(), labels, iou)
    candidates, is_cut = boxes[selected].float(), cut[selected]
    low = torch.maximum(candidates[:, None, :2], candidates[None, :, :2])
    high = torch.minimum(candidates[:, None, 2:], candidates[None, :, 2:])
    intersection = (high - low).clamp(min=0).prod(-1)  # [m m]
    area = (candidates[:, 2:] - candidates[:, :2]).prod(-1).clamp(min=1e-6)
    same_class = labels[selected][:, None] == labels[selected][None]
    is_within = ((intersection / area[:, None] >= COVERED) & same_class & ~is_cut[None]).any(1)
    selected = selected[~(is_cut & is_within)]
    return selected[scores[selected].argsort(descending=True, stable=True)]
