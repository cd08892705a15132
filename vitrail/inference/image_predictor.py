"""Predictions of images of any kind by a trained model, whatever runs it: torch, or an engine on an exported file."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from vitrail.assembly import model
from vitrail.contracts import Task
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.engine.precision import PrecisionChoice
from vitrail.errors import UsageError
from vitrail.inference.describe import describe_prediction, describe_predictor
from vitrail.inference.stream import BATCH, ImagePrediction, predict_each, read_each, sources_of
from vitrail.recipe import Recipe
from vitrail.validation import Positive, validate

OTHER = {  # the output of a model that is no classifier, and the remedy
    "images": ("the model is generative and predicts no classes", "sample() generates images"),
    "masks": ("the model predicts masks, not the class of an image", "predict_scenes(images) returns them"),
    "boxes": ("the model predicts boxes, not the class of an image", "predict_scenes(images) returns them"),
    "features": ("the model gives features of an image, not its class", "stream(images) returns them"),
}


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """The predictions of some images: row i of `probabilities` [N K] belongs to the image `sources[i]`, columns to the
    classes. It unpacks: `labels, probabilities = predictor.predict(images)`."""

    labels: list[str]
    probabilities: Tensor
    sources: list[str]  # path or address, or "image 3" of an array
    classes: tuple[str, ...]

    def __iter__(self) -> Iterator[Any]:
        return iter((self.labels, self.probabilities))

    def __repr__(self) -> str:
        return describe_prediction(self.sources, self.labels, self.probabilities)


class ImagePredictor(ABC):
    """A trained model with its classes, recipe and preprocessing.

    Called with images it predicts: classes as `predict`, masks or boxes as `predict_scenes`. Images are paths, folders,
    globs, videos, addresses (http, https), PIL images, uint8 arrays [H W C] or [H W], tensors [C H W] or [B C H W]
    (uint8, or floats in [0, 1]), bytes, open files, or lists of these.
    """

    classes: tuple[str, ...]
    recipe: Recipe
    task: Task
    source: Path
    choice: PrecisionChoice  # the precision that it computes in, and why

    @abstractmethod
    def predict_pixels(self, images: Sequence[np.ndarray]) -> Sequence[Any]:
        """uint8 [H W C] each -> probabilities [K], a label map or boxes of each."""

    @final
    def __call__(self, images: Any, batch: int = BATCH, every: int = 1) -> Prediction | list[np.ndarray]:
        return self.predict_scenes(images, every=every) if self.task.is_dense else self.predict(images, batch, every)

    @final
    def __repr__(self) -> str:
        return describe_predictor(self.source, self.recipe, self.task, self.classes, "model" in vars(self))

    @property
    @final
    def preprocess(self) -> Preprocess:
        return model.build_preprocess(self.recipe.input)

    @final
    def predict_scenes(self, images: Any, batch: int = BATCH, every: int = 1) -> list[np.ndarray]:
        """The masks or boxes of one image or many.

        Masks: a label map uint8 [H W] each, at the image's own size. Boxes: float32 [n 6] each, left, top, right,
        bottom in the image's pixels, score, class; the best first. Errors: as `predict`.
        """
        if not self.task.is_dense:
            raise UsageError("the model predicts classes, not masks or boxes", "predict(images) returns them")
        return [one.checked() for one in self.stream(images, batch, every)]

    @final
    def predict(self, images: Any, batch: int = BATCH, every: int = 1) -> Prediction:
        """Labels and probabilities of one image or many. batch: images at a time. every: of a video, which frames.

        With several labels an image, `labels` holds those of at least 0.5, joined by "|".
        Errors: `BadImage` for an image that cannot be read (`stream` goes on after one), `DataError` for a path that
        does not exist, `UsageError` for something that is no image.
        """
        if not self.task.is_classifier:
            raise UsageError(*OTHER[self.task.output])
        found = [(one.name, one.checked()) for one in self.stream(images, batch, every)]
        rows = torch.stack([row for _, row in found]) if found else torch.zeros(0, len(self.classes))
        return Prediction([self.label(row) for row in rows], rows, [name for name, _ in found], self.classes)

    @final
    def stream(self, images: Any, batch: int = BATCH, every: int = 1) -> Iterator[ImagePrediction]:
        """The prediction of each image in order, as soon as that of its batch is there; nothing else is kept in memory.

        An image that cannot be read has its `error`, and the others go on. Errors: otherwise as `predict`.
        """
        if self.task.is_generative:
            raise UsageError(*OTHER[self.task.output])
        batch, every = validate(batch, Positive, "batch"), validate(every, Positive, "every")
        sources = sources_of(images)
        return predict_each(self.predict_pixels, read_each(sources, self.preprocess, every), batch)

    @final
    def read(self, images: Any) -> Tensor:
        """Images, given as to `predict`, as the model takes them: [B C H W], preprocessed. Errors: as `predict`."""
        pixels = [one.checked() for one in read_each(sources_of(images), self.preprocess, every=1)]
        if not pixels:
            raise UsageError("no images were given", "give one, or many")
        return self.preprocess.batch(torch.stack([self.preprocess.image(one) for one in pixels]))

    @final
    def label(self, row: Tensor) -> str:
        if self.task.multi_label:
            return "|".join(name for name, p in zip(self.classes, row.tolist(), strict=True) if p >= 0.5)
        return self.classes[int(row.argmax())]
