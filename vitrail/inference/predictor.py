"""A trained model ready for use: pictures of any kind in, labels with probabilities out."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from vitrail.assembly import model
from vitrail.assembly.latents import elsewhere
from vitrail.assembly.load import found
from vitrail.assembly.model import Described
from vitrail.contracts import DenseTask, Task
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.engine.precision import Precision
from vitrail.errors import UsageError
from vitrail.inference.inputs import one_by_one, pixels
from vitrail.inference.sample import BATCH, asked, several, usual
from vitrail.inference.sample import pictures as drawn
from vitrail.inference.windows import GROUP, windowed
from vitrail.recipe import Recipe, Seed
from vitrail.tasks.diffusion import Sampling
from vitrail.validation import Positive, checked

OTHER = {  # what a model that tells no classes does, and the remedy
    "images": ("the model makes pictures and does not tell what is in them", "sample() makes some"),
    "masks": ("the model tells masks, not the class of a picture", "scenes(pictures) tells them"),
    "boxes": ("the model tells boxes, not the class of a picture", "scenes(pictures) tells them"),
}


class Prediction(NamedTuple):
    """What is said of some pictures: row i of `probabilities` [N K] belongs to picture i, columns to the classes."""

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
        return model.preprocess(self.recipe.input)

    @property
    def described(self) -> Described:
        return Described(self.model, self.task, self.recipe, self.classes)

    def scenes(self, pictures: Any) -> list[np.ndarray]:
        """What a model for masks or boxes says of one picture or many, given as to `predict`.

        Masks: a label map uint8 [H W] each, at the picture's own size. Boxes: float32 [n 6] each, left, top, right, bottom in the picture's
        pixels, score, class; the best first. Errors: as `predict`.
        """
        pre, task, found = self.preprocess, self.task, []
        if not isinstance(task, DenseTask):
            raise UsageError("the model tells classes, not masks or boxes", "predict(pictures) tells them")
        windows = windowed(self.described, Precision("fp32", next(self.model.parameters()).device.type))
        was_training = self.model.training
        self.model.eval()
        items = one_by_one(pictures)
        for start in range(0, len(items), GROUP):
            found += task.predict_images(windows, [pixels(item, pre) for item in items[start : start + GROUP]])
        self.model.train(was_training)
        return found

    @torch.no_grad()
    def predict(self, pictures: Any, batch: int = 64) -> Prediction:
        """Labels and probabilities of one picture or many: paths, PIL images, uint8 arrays [H W C] or [H W],
        or tensors [C H W] / [B C H W] (uint8, or floats in [0, 1]).

        With several labels a picture, `labels` holds those of at least 0.5, joined by "|".
        Errors: `BadImage` for a picture that cannot be read, `UsageError` for something that is no picture.
        """
        if not self.task.is_classifier:
            raise UsageError(*OTHER[self.task.output])
        pre, rows, batch = self.preprocess, [], checked(batch, Positive, "batch")
        items = one_by_one(pictures)
        was_training = self.model.training
        self.model.eval()
        device = next(self.model.parameters()).device
        for start in range(0, len(items), batch):
            stacked = torch.stack([pre.picture(pixels(item, pre)) for item in items[start : start + batch]])
            rows.append(self.task.predict(self.model, pre.batch(stacked.to(device))).float().cpu())
        self.model.train(was_training)
        probabilities = torch.cat(rows) if rows else torch.zeros(0, len(self.classes))
        return Prediction([self.label(row) for row in probabilities], probabilities)

    def sample(self, classes: Sequence[str | int] = (), count: int = 8, seed: int = 0, guidance: float | None = None,
               steps: int = 50, how: Sampling | None = None, batch: int = BATCH) -> np.ndarray:  # fmt: skip
        """Pictures that a denoiser makes, uint8 [N H W C]: `count` of every class by name or index, by default of all.

        The same seed gives the same pictures at any batch. how: everything else, in place of `guidance` and `steps`.
        Errors: `UsageError`, for a model that makes no pictures too.
        """
        labels = asked(self.described, classes)
        wish = several(labels, checked(count, Positive, "count"), checked(seed, Seed, "seed"))
        chosen = usual(self.described, how, guidance, checked(steps, Positive, "steps"))
        return drawn(self.described, wish, chosen, checked(batch, Positive, "batch"))

    def label(self, row: Tensor) -> str:
        if self.task.multi_label:
            return "|".join(name for name, p in zip(self.classes, row.tolist(), strict=True) if p >= 0.5)
        return self.classes[int(row.argmax())]


def load(source: str | Path, device: str = "cpu", average: int = 1, vae: str = "") -> Predictor:
    """As `found`; vae: where the autoencoder of a model of latents lies now. Errors: `CheckpointError`, also for another autoencoder."""
    described, path = found(source, average)
    return predictor(dataclasses.replace(described, recipe=elsewhere(described.recipe, vae)), path, device)


def predictor(described: Described, path: Path, device: str) -> Predictor:
    from vitrail.engine.world import best_device, named_device

    place = best_device() if device == "auto" else named_device(device)
    return Predictor(described.model.to(place).eval(), described.classes, described.recipe, described.task, path)
