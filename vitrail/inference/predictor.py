"""A trained model ready for use: images of any kind in, labels with probabilities out."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from vitrail.assembly import model
from vitrail.assembly.autoencoder import relocate_autoencoder
from vitrail.assembly.load import load_bundle
from vitrail.assembly.model import ModelBundle
from vitrail.contracts import DenseTask, Task
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.engine.precision import Precision
from vitrail.errors import UsageError
from vitrail.inference.inputs import as_list, read_pixels
from vitrail.inference.sample import BATCH, default_sampling, request_per_class, resolve_classes, sample_images
from vitrail.inference.windows import GROUP, windowed
from vitrail.recipe import Recipe, Seed
from vitrail.tasks.diffusion import Sampling
from vitrail.validation import Positive, validate

OTHER = {  # the output of a model that is no classifier, and the remedy
    "images": ("the model is generative and predicts no classes", "sample() generates images"),
    "masks": ("the model predicts masks, not the class of an image", "predict_scenes(images) returns them"),
    "boxes": ("the model predicts boxes, not the class of an image", "predict_scenes(images) returns them"),
}


class Prediction(NamedTuple):
    """The predictions of some images: row i of `probabilities` [N K] belongs to image i, columns to the classes."""

    labels: list[str]
    probabilities: Tensor


@dataclass(frozen=True)
class Predictor:
    """A model from a run, a model folder or a file, with its classes, recipe and preprocessing."""

    model: nn.Module
    classes: tuple[str, ...]
    recipe: Recipe
    task: Task
    source: Path

    @property
    def preprocess(self) -> Preprocess:
        return model.build_preprocess(self.recipe.input)

    @property
    def bundle(self) -> ModelBundle:
        return ModelBundle(self.model, self.task, self.recipe, self.classes)

    def predict_scenes(self, images: Any) -> list[np.ndarray]:
        """The masks or boxes of one image or many, given as to `predict`.

        Masks: a label map uint8 [H W] each, at the image's own size. Boxes: float32 [n 6] each, left, top, right, bottom in the image's
        pixels, score, class; the best first. Errors: as `predict`.
        """
        pre, task, scenes = self.preprocess, self.task, []
        if not isinstance(task, DenseTask):
            raise UsageError("the model predicts classes, not masks or boxes", "predict(images) returns them")
        windows = windowed(self.bundle, Precision("fp32", next(self.model.parameters()).device.type))
        was_training = self.model.training
        self.model.eval()
        items = as_list(images)
        for start in range(0, len(items), GROUP):
            scenes += task.predict_images(windows, [read_pixels(item, pre) for item in items[start : start + GROUP]])
        self.model.train(was_training)
        return scenes

    @torch.no_grad()
    def predict(self, images: Any, batch: int = 64) -> Prediction:
        """Labels and probabilities of one image or many: paths, PIL images, uint8 arrays [H W C] or [H W],
        or tensors [C H W] / [B C H W] (uint8, or floats in [0, 1]).

        With several labels an image, `labels` holds those of at least 0.5, joined by "|".
        Errors: `BadImage` for an image that cannot be read, `UsageError` for something that is no image.
        """
        if not self.task.is_classifier:
            raise UsageError(*OTHER[self.task.output])
        pre, rows, batch = self.preprocess, [], validate(batch, Positive, "batch")
        items = as_list(images)
        was_training = self.model.training
        self.model.eval()
        device = next(self.model.parameters()).device
        for start in range(0, len(items), batch):
            stacked = torch.stack([pre.image(read_pixels(item, pre)) for item in items[start : start + batch]])
            rows.append(self.task.predict(self.model, pre.batch(stacked.to(device))).float().cpu())
        self.model.train(was_training)
        probabilities = torch.cat(rows) if rows else torch.zeros(0, len(self.classes))
        return Prediction([self.label(row) for row in probabilities], probabilities)

    def sample(self, classes: Sequence[str | int] = (), count: int = 8, seed: int = 0, guidance: float | None = None,
               steps: int = 50, sampling: Sampling | None = None, batch: int = BATCH) -> np.ndarray:  # fmt: skip
        """Images that a denoiser generates, uint8 [N H W C]: `count` of every class by name or index, by default of all.

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


def load_predictor(source: str | Path, device: str = "cpu", average: int = 1, vae: str = "") -> Predictor:
    """A predictor from a run, a model folder or a file. vae: the folder of the autoencoder of a model of latents. Errors: `CheckpointError`."""
    bundle, path = load_bundle(source, average)
    return build_predictor(dataclasses.replace(bundle, recipe=relocate_autoencoder(bundle.recipe, vae)), path, device)


def build_predictor(bundle: ModelBundle, path: Path, device: str) -> Predictor:
    from vitrail.engine.world import best_device, named_device

    target = best_device() if device == "auto" else named_device(device)
    return Predictor(bundle.model.to(target).eval(), bundle.classes, bundle.recipe, bundle.task, path)
