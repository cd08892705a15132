"""A trained model ready for use: images of any kind in, labels with probabilities out."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from vitrail.assembly import model
from vitrail.assembly.autoencoder import relocate_autoencoder
from vitrail.assembly.load import load_bundle
from vitrail.assembly.model import ModelBundle
from vitrail.contracts import Task
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.errors import UsageError
from vitrail.inference.describe import describe_prediction, describe_predictor
from vitrail.inference.sample import BATCH as SAMPLES
from vitrail.inference.sample import default_sampling, request_per_class, resolve_classes, sample_images
from vitrail.inference.stream import BATCH, ImagePrediction, predict_each, predict_pixels, read_each, sources_of
from vitrail.recipe import Recipe, Seed
from vitrail.tasks.diffusion import Sampling
from vitrail.validation import Positive, validate

OTHER = {  # the output of a model that is no classifier, and the remedy
    "images": ("the model is generative and predicts no classes", "sample() generates images"),
    "masks": ("the model predicts masks, not the class of an image", "predict_scenes(images) returns them"),
    "boxes": ("the model predicts boxes, not the class of an image", "predict_scenes(images) returns them"),
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


@dataclass(frozen=True, repr=False)
class Predictor:
    """A model from a run, a model folder or a file, with its classes, recipe and preprocessing.

    Called with images it predicts: classes as `predict`, masks or boxes as `predict_scenes`. Images are paths, folders,
    globs, videos, addresses (http, https), PIL images, uint8 arrays [H W C] or [H W], tensors [C H W] or [B C H W]
    (uint8, or floats in [0, 1]), bytes, open files, or lists of these.
    """

    model: nn.Module
    classes: tuple[str, ...]
    recipe: Recipe
    task: Task
    source: Path
    origin: Mapping[str, Any] = field(default_factory=dict)  # of the published weights that it began with

    def __call__(self, images: Any, batch: int = BATCH, every: int = 1) -> "Prediction | list[np.ndarray]":
        return self.predict_scenes(images, every=every) if self.task.is_dense else self.predict(images, batch, every)

    def __repr__(self) -> str:
        return describe_predictor(self.source, self.recipe, self.task, self.classes)

    @property
    def preprocess(self) -> Preprocess:
        return model.build_preprocess(self.recipe.input)

    @property
    def bundle(self) -> ModelBundle:
        return ModelBundle(self.model, self.task, self.recipe, self.classes, self.origin)

    def predict_scenes(self, images: Any, batch: int = BATCH, every: int = 1) -> list[np.ndarray]:
        """The masks or boxes of one image or many.

        Masks: a label map uint8 [H W] each, at the image's own size. Boxes: float32 [n 6] each, left, top, right,
        bottom in the image's pixels, score, class; the best first. Errors: as `predict`.
        """
        if not self.task.is_dense:
            raise UsageError("the model predicts classes, not masks or boxes", "predict(images) returns them")
        return [one.checked() for one in self.stream(images, batch, every)]

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

    def stream(self, images: Any, batch: int = BATCH, every: int = 1) -> Iterator[ImagePrediction]:
        """The prediction of each image in order, as soon as that of its batch is there; nothing else is kept in memory.

        An image that cannot be read has its `error`, and the others go on. Errors: otherwise as `predict`.
        """
        if self.task.is_generative:
            raise UsageError(*OTHER[self.task.output])
        batch, every = validate(batch, Positive, "batch"), validate(every, Positive, "every")
        sources = sources_of(images)
        return predict_each(self.predict_pixels, read_each(sources, self.preprocess, every), batch)

    def read(self, images: Any) -> Tensor:
        """Images, given as to `predict`, as the model takes them: [B C H W], preprocessed. Errors: as `predict`."""
        pixels = [one.checked() for one in read_each(sources_of(images), self.preprocess, every=1)]
        if not pixels:
            raise UsageError("no images were given", "give one, or many")
        return self.preprocess.batch(torch.stack([self.preprocess.image(one) for one in pixels]))

    def predict_pixels(self, images: Sequence[np.ndarray]) -> Sequence[Any]:
        """uint8 [H W C] each -> probabilities [K], a label map or boxes of each."""
        return predict_pixels(self.bundle, self.preprocess, images)

    def sample(self, classes: Sequence[str | int] = (), count: int = 8, seed: int = 0, guidance: float | None = None,
               steps: int = 50, sampling: Sampling | None = None, batch: int = SAMPLES) -> np.ndarray:  # fmt: skip
        """Images that a denoiser generates, uint8 [N H W C]: `count` of every class by name or index, by default of
        all.

        The same seed gives the same images at any batch. sampling: all settings, in place of `guidance` and `steps`.
        Errors: `UsageError`, also for a model that is not generative.
        """
        labels = resolve_classes(self.bundle, classes)
        request = request_per_class(labels, validate(count, Positive, "count"), validate(seed, Seed, "seed"))
        chosen = default_sampling(self.bundle, sampling, guidance, validate(steps, Positive, "steps"))
        return sample_images(self.bundle, request, chosen, validate(batch, Positive, "batch"))

    def label(self, row: Tensor) -> str:
        if self.task.multi_label:
            return "|".join(name for name, p in zip(self.classes, row.tolist(), strict=True) if p >= 0.5)
        return self.classes[int(row.argmax())]


def load_predictor(
    source: str | Path,
    device: str = "cpu",
    average: int = 1,
    vae: str = "",
    weights: Literal["best", "last"] = "best",
) -> Predictor:
    """A predictor from a run, a model folder or a file. vae: the folder of the autoencoder of a model of latents;
    weights: of a run, the best that it kept, or the last. Errors: `CheckpointError`."""
    bundle, path = load_bundle(source, average, weights)
    return build_predictor(dataclasses.replace(bundle, recipe=relocate_autoencoder(bundle.recipe, vae)), path, device)


def build_predictor(bundle: ModelBundle, path: Path, device: str) -> Predictor:
    from vitrail.engine.world import best_device, named_device

    target = best_device() if device == "auto" else named_device(device)
    return Predictor(bundle.model.to(target).eval(), bundle.classes, bundle.recipe, bundle.task, path, bundle.origin)
