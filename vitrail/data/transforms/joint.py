"""What training does to a picture and to its mask or boxes at once: size, place, mirror images, colours, mosaics of four.

Every chance comes from (seed, epoch, picture) alone, as in `transforms`. Masks are resized to the nearest value; what a picture is
padded with has the mean colour and counts for nothing.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vitrail.data.annotations.boxes import cut
from vitrail.data.dataset import IGNORE, Boxes, Kind, Split
from vitrail.data.sampling import Keys, seed_of
from vitrail.data.transforms.base import Transform
from vitrail.data.transforms.preprocess import Preprocess, Resize, normalise, padded, resized, to_tensor
from vitrail.types import Objects

TRIES = 10  # places that are tried for a part worth looking at
MAIN = 0.75  # largest share of a part that one class may take, ignored pixels left out (mmseg's cat_max_ratio)
SEEN = 0.3  # share of a box that must be in a part for the object to be in it


class Scene(NamedTuple):
    """A picture uint8 [C h w], what is true of it, and the (height, width) of what of it is no padding."""

    picture: Tensor
    truth: Any  # uint8 [h w], or `Boxes`
    size: tuple[int, int]


@dataclass(frozen=True)
class Joint(Transform):
    """Everything `augment` in a recipe says of pictures with masks or boxes, plus the preprocessing it ends in."""

    preprocess: Preprocess
    seed: int
    kind: Kind
    resize: tuple[float, float] = (1.0, 1.0)  # factor on the size that a picture has in evaluation
    flip: bool = False
    flip_vertical: bool = False
    jitter: float = 0.0  # brightness, contrast and saturation are multiplied by 1 - jitter to 1 + jitter
    mosaic: float = 0.0  # probability that a picture is one of four on its canvas

    @property
    def works_per_image(self) -> bool:
        return True

    def load(self, split: Split, keys: Keys) -> tuple[Tensor, Any]:
        """Pictures uint8 [B C h w] with masks uint8 [B h w], or with `Objects`."""
        scenes = [self.scene(split, int(e), int(i)) for e, i in zip(keys.epochs, keys.ids, strict=True)]
        pictures = torch.stack([scene.picture for scene in scenes])
        if self.kind == "masks":
            return pictures, torch.stack([torch.from_numpy(scene.truth) for scene in scenes])
        return pictures, together(scenes)

    def batch(self, images: Tensor, keys: Keys | None = None) -> Tensor:
        """uint8 [B C h w] -> float32, normalised."""
        return normalise(images, self.preprocess.mean, self.preprocess.std)

    def deterministic(self) -> Preprocess:
        return self.preprocess

    def scene(self, split: Split, epoch: int, index: int) -> Scene:
        """One picture as it is trained on."""
        torch.default_generator.manual_seed(seed_of(self.seed, epoch, index))
        if self.mosaic and float(torch.rand(())) < self.mosaic:
            scene = self.four(split, index)
        else:
            scene = self.part(split, index, self.preprocess)
        return self.turned(scene)

    def part(self, split: Split, index: int, pre: Preprocess) -> Scene:
        """A picture resized by chance, and of it a part of the canvas' size, padded where it is smaller."""
        assert split.truth is not None
        image, truth = to_tensor(split.read(index), pre.channels), split.truth(index)
        factor = float(torch.empty(()).uniform_(*self.resize))
        before, base = (image.shape[1], image.shape[2]), pre.scaled(*image.shape[1:])
        size = max(1, round(base[0] * factor)), max(1, round(base[1] * factor))
        if size != before:
            image = resized(image, size, pre.interpolation)
            truth = truth_resized(truth, before, size)
        for _ in range(TRIES):
            top, left = (int(torch.randint(max(0, size[i] - pre.size[i]) + 1, ())) for i in (0, 1))
            area = (min(pre.size[0], size[0]), min(pre.size[1], size[1]))
            shown = truth_cut(truth, top, left, area)
            if area == size or worth(shown, truth):
                break
        part = image[:, top : top + area[0], left : left + area[1]]
        if self.jitter:  # before padding, which stays as it is
            from torchvision.transforms import v2

            part = v2.ColorJitter(self.jitter, self.jitter, self.jitter)(part)
        picture = padded(part, pre.size, pre.fill)
        return Scene(picture, truth_padded(shown, pre.size), area)

    def turned(self, scene: Scene) -> Scene:
        """Mirrored by chance; the padding stays below and to the right."""
        picture, truth, (height, width) = scene
        for wanted, axis in ((self.flip, 2), (self.flip_vertical, 1)):
            if wanted and float(torch.rand(())) < 0.5:
                picture = picture.clone()
                picture[:, :height, :width] = picture[:, :height, :width].flip(axis)
                truth = truth_mirrored(truth, (height, width), axis)
        return Scene(picture, truth, scene.size)

    def four(self, split: Split, index: int) -> Scene:
        """The picture and three others around a point near the middle, each as large as covers its corner."""
        height, width = self.preprocess.size
        y, x = (round(side * float(torch.empty(()).uniform_(0.3, 0.7))) for side in (height, width))
        others = torch.randint(len(split), (3,)).tolist()
        picture = torch.empty(self.preprocess.channels, height, width, dtype=torch.uint8)
        mask, found = np.empty((height, width), np.uint8), []
        corners = ((0, y, 0, x), (0, y, x, width), (y, height, 0, x), (y, height, x, width))
        for number, (top, bottom, left, right) in zip([index, *others], corners, strict=True):
            resize: Resize = "tile" if self.preprocess.resize == "tile" else "slide"
            pre = replace(self.preprocess, size=(bottom - top, right - left), resize=resize)
            corner = self.part(split, number, pre)
            picture[:, top:bottom, left:right] = corner.picture
            if isinstance(corner.truth, Boxes):
                found.append(corner.truth._replace(boxes=corner.truth.boxes + np.array([left, top, left, top], np.float32)))
            else:
                mask[top:bottom, left:right] = corner.truth
        truth = Boxes(*map(np.concatenate, zip(*found, strict=True))) if found else mask
        return Scene(picture, truth, (height, width))


def truth_resized(truth: Any, before: tuple[int, int], size: tuple[int, int]) -> Any:
    if isinstance(truth, Boxes):
        scale = np.array([size[1] / before[1], size[0] / before[0]] * 2, np.float32)
        return truth._replace(boxes=truth.boxes * scale)
    rows, columns = (((np.arange(n) + 0.5) * (was / n)).astype(np.int64) for n, was in zip(size, before, strict=True))
    return truth[rows[:, None], columns]


def truth_cut(truth: Any, top: int, left: int, area: tuple[int, int]) -> Any:
    """The truth of a part; an object of which too little is seen is left out."""
    if not isinstance(truth, Boxes):
        return truth[top : top + area[0], left : left + area[1]]
    return cut(truth, (left, top, left + area[1], top + area[0]), SEEN)


def truth_padded(truth: Any, size: tuple[int, int]) -> Any:
    if isinstance(truth, Boxes):
        return truth
    below, beside = size[0] - truth.shape[0], size[1] - truth.shape[1]
    return np.pad(truth, ((0, max(0, below)), (0, max(0, beside))), constant_values=IGNORE)


def truth_mirrored(truth: Any, size: tuple[int, int], axis: int) -> Any:
    """axis: 2 left and right, 1 up and down."""
    if isinstance(truth, Boxes):
        first, side, boxes = axis % 2, size[axis - 1], truth.boxes.copy()
        boxes[:, [first, first + 2]] = side - truth.boxes[:, [first + 2, first]]
        return truth._replace(boxes=boxes)
    mask = truth.copy()
    mask[: size[0], : size[1]] = np.flip(mask[: size[0], : size[1]], axis - 1)
    return mask


def worth(shown: Any, truth: Any) -> bool:
    """Whether there is something to learn from a part: an object where the picture has some, more than nearly one class of a mask."""
    if isinstance(shown, Boxes):
        return len(shown.labels) > 0 or len(truth.labels) == 0
    counts = np.bincount(shown.ravel(), minlength=256)[:IGNORE]
    return bool(counts.sum()) and counts.max() < MAIN * counts.sum()


def together(scenes: list[Scene]) -> Objects:
    """The boxes of a batch as one; objects that stand for a crowd are not learned from."""
    kept = [(s.truth.boxes[~s.truth.crowd], s.truth.labels[~s.truth.crowd]) for s in scenes]
    most = max(1, *(len(labels) for _, labels in kept))
    boxes, labels = torch.zeros(len(scenes), most, 4), torch.full((len(scenes), most), -1)
    for i, (some, their) in enumerate(kept):
        boxes[i, : len(their)], labels[i, : len(their)] = torch.from_numpy(some), torch.from_numpy(their)
    usual = (labels >= 0).sum(1).float().mean().expand(len(scenes)).clone()
    return Objects(boxes, labels, torch.tensor([s.size for s in scenes]), usual)
