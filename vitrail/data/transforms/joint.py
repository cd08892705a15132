"""Joint augmentation of an image and its mask or boxes: scale jitter, crops, flips, colour jitter, mosaics of four.

Random numbers depend on (seed, epoch, image) only, as in `augment`. Masks are resized with nearest-neighbour
interpolation; padding has the mean colour and is ignored.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vitrail.data.annotations.boxes import crop_boxes
from vitrail.data.dataset import IGNORE, AnnotationKind, Boxes, Split
from vitrail.data.sampling import Keys, derive_seed
from vitrail.data.transforms.base import Transform
from vitrail.data.transforms.color import jitter_colors
from vitrail.data.transforms.preprocess import Preprocess, ResizeMode, normalize, pad_image, to_tensor
from vitrail.data.transforms.resize import resize_image
from vitrail.types import DetectionTargets

TRIES = 10  # attempts at an informative crop
MAIN = 0.75  # largest share of a crop's valid pixels that one class may have (mmseg's cat_max_ratio)
MIN_VISIBLE = 0.3  # share of a box that must be in a crop for the object to be in it


class AnnotatedSample(NamedTuple):
    """An image uint8 [C h w], its annotation, and the (height, width) without padding."""

    image: Tensor
    annotation: Any  # uint8 [h w], or `Boxes`
    size: tuple[int, int]


@dataclass(frozen=True)
class JointTransform(Transform):
    """The `[augment]` settings of a recipe for images with masks or boxes, followed by the preprocessing."""

    preprocess: Preprocess
    seed: int
    kind: AnnotationKind
    scale_jitter: tuple[float, float] = (1.0, 1.0)  # factor on the size used in evaluation
    hflip: bool = False
    vflip: bool = False
    color_jitter: float = 0.0  # brightness, contrast and saturation are multiplied by 1 - jitter to 1 + jitter
    mosaic: float = 0.0  # probability of a mosaic of four images
    rotate90: bool = False  # turned by a random number of quarters

    @property
    def works_per_image(self) -> bool:
        return True

    def load(self, split: Split, keys: Keys) -> tuple[Tensor, Any]:
        """Images uint8 [B C h w] with masks uint8 [B h w], or with `DetectionTargets`."""
        scenes = [self.load_sample(split, int(e), int(i)) for e, i in zip(keys.epochs, keys.ids, strict=True)]
        images = torch.stack([scene.image for scene in scenes])
        if self.kind == "masks":
            return images, torch.stack([torch.from_numpy(scene.annotation) for scene in scenes])
        return images, collate_boxes(scenes)

    def batch(self, images: Tensor, keys: Keys | None = None) -> Tensor:
        """uint8 [B C h w] -> float32, normalised."""
        return normalize(images, self.preprocess.mean, self.preprocess.std)

    def deterministic(self) -> Preprocess:
        return self.preprocess

    def load_sample(self, split: Split, epoch: int, index: int) -> AnnotatedSample:
        """One augmented training image."""
        torch.default_generator.manual_seed(derive_seed(self.seed, epoch, index))
        if self.mosaic and float(torch.rand(())) < self.mosaic:
            scene = self.build_mosaic(split, index)
        else:
            scene = self.crop(split, index, self.preprocess)
        return self.flip_sample(scene)

    def crop(self, split: Split, index: int, pre: Preprocess) -> AnnotatedSample:
        """A random crop of the randomly resized image, padded to the size of the canvas."""
        assert split.annotation is not None
        image, annotation = to_tensor(split.read(index), pre.channels), split.annotation(index)
        factor = float(torch.empty(()).uniform_(*self.scale_jitter))
        before, base = (image.shape[1], image.shape[2]), pre.scaled_size(*image.shape[1:])
        size = max(1, round(base[0] * factor)), max(1, round(base[1] * factor))
        if size != before:
            image = resize_image(image, size, pre.interpolation)
            annotation = resize_annotation(annotation, before, size)
        quarters = int(torch.randint(4, ())) if self.rotate90 else 0
        canvas = pre.size[::-1] if quarters % 2 else pre.size  # before it is turned
        for _ in range(TRIES):
            top, left = (int(torch.randint(max(0, size[i] - canvas[i]) + 1, ())) for i in (0, 1))
            area = (min(canvas[0], size[0]), min(canvas[1], size[1]))
            cropped = crop_annotation(annotation, top, left, area)
            if area == size or is_informative(cropped, annotation):
                break
        part = image[:, top : top + area[0], left : left + area[1]]
        for _ in range(quarters):
            part, cropped, area = part.rot90(1, (1, 2)), turn_annotation(cropped, area), area[::-1]
        if self.color_jitter:  # before padding, whose colour stays
            part = jitter_colors(part, self.color_jitter)
        padded = pad_image(part, pre.size, pre.padding_color)
        return AnnotatedSample(padded, pad_annotation(cropped, pre.size), area)

    def flip_sample(self, scene: AnnotatedSample) -> AnnotatedSample:
        """Random flips; the padding stays below and to the right."""
        image, annotation, (height, width) = scene
        for is_on, axis in ((self.hflip, 2), (self.vflip, 1)):
            if is_on and float(torch.rand(())) < 0.5:
                image = image.clone()
                image[:, :height, :width] = image[:, :height, :width].flip(axis)
                annotation = flip_annotation(annotation, (height, width), axis)
        return AnnotatedSample(image, annotation, scene.size)

    def build_mosaic(self, split: Split, index: int) -> AnnotatedSample:
        """A mosaic of the image and three others around a point near the centre, each scaled to cover its corner."""
        height, width = self.preprocess.size
        y, x = (round(side * float(torch.empty(()).uniform_(0.3, 0.7))) for side in (height, width))
        others = torch.randint(len(split), (3,)).tolist()
        image = torch.empty(self.preprocess.channels, height, width, dtype=torch.uint8)
        mask, boxes = np.empty((height, width), np.uint8), []
        corners = ((0, y, 0, x), (0, y, x, width), (y, height, 0, x), (y, height, x, width))
        for number, (top, bottom, left, right) in zip([index, *others], corners, strict=True):
            resize: ResizeMode = "tile" if self.preprocess.resize_mode == "tile" else "slide"
            pre = replace(self.preprocess, size=(bottom - top, right - left), resize_mode=resize)
            corner = self.crop(split, number, pre)
            image[:, top:bottom, left:right] = corner.image
            if isinstance(corner.annotation, Boxes):
                boxes.append(
                    corner.annotation._replace(
                        boxes=corner.annotation.boxes + np.array([left, top, left, top], np.float32)
                    )
                )
            else:
                mask[top:bottom, left:right] = corner.annotation
        annotation = Boxes(*map(np.concatenate, zip(*boxes, strict=True))) if boxes else mask
        return AnnotatedSample(image, annotation, (height, width))


def resize_annotation(annotation: Any, before: tuple[int, int], size: tuple[int, int]) -> Any:
    if isinstance(annotation, Boxes):
        scale = np.array([size[1] / before[1], size[0] / before[0]] * 2, np.float32)
        return annotation._replace(boxes=annotation.boxes * scale)
    rows, columns = (((np.arange(n) + 0.5) * (was / n)).astype(np.int64) for n, was in zip(size, before, strict=True))
    return annotation[rows[:, None], columns]


def crop_annotation(annotation: Any, top: int, left: int, area: tuple[int, int]) -> Any:
    """The annotation of a crop; objects visible too little are dropped."""
    if not isinstance(annotation, Boxes):
        return annotation[top : top + area[0], left : left + area[1]]
    return crop_boxes(annotation, (left, top, left + area[1], top + area[0]), MIN_VISIBLE)


def pad_annotation(annotation: Any, size: tuple[int, int]) -> Any:
    if isinstance(annotation, Boxes):
        return annotation
    below, beside = size[0] - annotation.shape[0], size[1] - annotation.shape[1]
    return np.pad(annotation, ((0, max(0, below)), (0, max(0, beside))), constant_values=IGNORE)


def flip_annotation(annotation: Any, size: tuple[int, int], axis: int) -> Any:
    """axis: 2 horizontal, 1 vertical."""
    if isinstance(annotation, Boxes):
        first, side, boxes = axis % 2, size[axis - 1], annotation.boxes.copy()
        boxes[:, [first, first + 2]] = side - annotation.boxes[:, [first + 2, first]]
        return annotation._replace(boxes=boxes)
    mask = annotation.copy()
    mask[: size[0], : size[1]] = np.flip(mask[: size[0], : size[1]], axis - 1)
    return mask


def turn_annotation(annotation: Any, size: tuple[int, int]) -> Any:
    """Turned by a quarter, against the clock, as `rot90`: of an image of `size` (height, width) before."""
    if isinstance(annotation, Boxes):
        left, top, right, bottom = annotation.boxes.T
        return annotation._replace(boxes=np.stack([top, size[1] - right, bottom, size[1] - left], axis=1))
    return np.ascontiguousarray(np.rot90(annotation))


def is_informative(cropped: Any, annotation: Any) -> bool:
    """Whether a crop is informative: an object if the image has any; no class of a mask covers nearly all of it."""
    if isinstance(cropped, Boxes):
        return len(cropped.labels) > 0 or len(annotation.labels) == 0
    counts = np.bincount(cropped.ravel(), minlength=256)[:IGNORE]
    return bool(counts.sum()) and counts.max() < MAIN * counts.sum()


def collate_boxes(scenes: list[AnnotatedSample]) -> DetectionTargets:
    """Collates the boxes of a batch; crowd regions are not training targets."""
    objects = [(s.annotation.boxes[~s.annotation.crowd], s.annotation.labels[~s.annotation.crowd]) for s in scenes]
    max_objects = max(1, *(len(labels) for _, labels in objects))
    boxes, labels = torch.zeros(len(scenes), max_objects, 4), torch.full((len(scenes), max_objects), -1)
    for i, (own_boxes, own_labels) in enumerate(objects):
        boxes[i, : len(own_labels)], labels[i, : len(own_labels)] = (
            torch.from_numpy(own_boxes),
            torch.from_numpy(own_labels),
        )
    mean_objects = (labels >= 0).sum(1).float().mean().expand(len(scenes)).clone()
    return DetectionTargets(boxes, labels, torch.tensor([s.size for s in scenes]), mean_objects)
