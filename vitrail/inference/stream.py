"""Sources one after the other: read, predicted in batches, and handed on with the error of what cannot be read."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch

from vitrail.assembly.model import ModelBundle
from vitrail.contracts import DenseTask
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.data.video import read_frames
from vitrail.engine.precision import Precision
from vitrail.errors import BadImage
from vitrail.inference.download import download, is_url
from vitrail.inference.inputs import as_list, read_pixels
from vitrail.inference.sources import Source, list_sources
from vitrail.inference.windows import windowed
from vitrail.layers.modes import evaluation_mode

BATCH = 32  # images at a time
LARGEST = 2**28  # bytes of pixels at a time, or one image


@dataclass(frozen=True)
class ReadImage:
    """An image that was read, or why it could not be. frame, seconds: of a frame of a video."""

    source: Source
    number: int  # of the source
    pixels: np.ndarray | None = None  # uint8 [H W C]
    error: BadImage | None = None
    frame: int | None = None
    seconds: float | None = None

    def checked(self) -> np.ndarray:
        """The pixels. Errors: that of the image."""
        if self.pixels is None:
            raise self.error or BadImage(f"{self.source.name} has no pixels")
        return self.pixels


@dataclass(frozen=True)
class ImagePrediction:
    """The prediction of one image: `value` is a tensor of probabilities [K], a label map uint8 [H W] or boxes float32
    [n 6]; None where `error` says why the image could not be read."""

    image: ReadImage
    value: Any = None

    @property
    def error(self) -> BadImage | None:
        return self.image.error

    @property
    def path(self) -> str:
        """The path or the address, or "image 3" of an array."""
        return self.image.source.name

    @property
    def name(self) -> str:
        """The path, and of a video the number of the frame: clip.mp4#30."""
        return self.path if self.image.frame is None else f"{self.path}#{self.image.frame}"

    def checked(self) -> Any:
        """The value. Errors: that of the image."""
        if self.error:
            raise self.error
        return self.value

    def __repr__(self) -> str:
        what = self.error.what if self.error else f"{type(self.value).__name__} {list(self.value.shape)}"
        return f"ImagePrediction({self.name}: {what})"


def sources_of(images: Any) -> list[Source]:
    """One image or many, as a caller hands them over, as single sources; what is left out is a warning."""
    sources, notes = list_sources(as_list(images))
    for note in notes:
        warnings.warn(note, stacklevel=3)
    return sources


def read_each(sources: Iterable[Source], pre: Preprocess, every: int) -> Iterator[ReadImage]:
    """The images of all sources, and of videos every `every`-th frame. Errors: `UsageError` for what is no image."""
    for number, source in enumerate(sources):
        try:
            item = download(source.item) if isinstance(source.item, str) and is_url(source.item) else source.item
            if not source.is_video:
                yield ReadImage(source, number, read_pixels(item, pre))
                continue
            for frame in read_frames(item, source.name, every):
                pixels = read_pixels(frame.pixels, pre) if pre.channels == 3 else to_channels(frame.pixels, pre)
                yield ReadImage(source, number, pixels, None, frame.number, frame.seconds)
        except BadImage as error:
            yield ReadImage(source, number, error=error)


def take_group(images: Iterator[ReadImage], batch: int) -> list[ReadImage]:
    """The next images: `batch` of them, or fewer where they are large."""
    group, size = [], 0
    for one in islice(images, batch):
        group.append(one)
        size += one.pixels.nbytes if one.pixels is not None else 0
        if size > LARGEST:
            break
    return group


@torch.no_grad()
def predict_pixels(
    bundle: ModelBundle, pre: Preprocess, images: Sequence[np.ndarray], precision: Precision
) -> Sequence[Any]:
    """uint8 [H W C] each -> probabilities [K], a label map or boxes of each."""
    device, task = next(bundle.model.parameters()).device, bundle.task
    with evaluation_mode(bundle.model):
        if isinstance(task, DenseTask):
            return task.predict_images(windowed(bundle, precision), images)
        batch = torch.stack([pre.image(pixels) for pixels in images])
        with precision.autocast():
            return list(task.predict(bundle.model, pre.batch(batch.to(device))).float().cpu())


def to_channels(pixels: np.ndarray, pre: Preprocess) -> np.ndarray:
    """uint8 [H W 3] as an image file with these pixels is read for the model."""
    from PIL import Image

    return read_pixels(Image.fromarray(pixels), pre)


def predict_each(
    predict: Callable[[Sequence[np.ndarray]], Sequence[Any]], images: Iterator[ReadImage], batch: int
) -> Iterator[ImagePrediction]:
    """The predictions of all images in order, `batch` images at a time."""
    while group := take_group(images, batch):
        pixels = [one.pixels for one in group if one.pixels is not None]
        values = iter(predict(pixels) if pixels else ())
        for one in group:
            yield ImagePrediction(one, None if one.error else next(values))
