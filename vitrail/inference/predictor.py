"""A trained model ready for use: images of any kind in, labels with probabilities out."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from vitrail.assembly.autoencoder import relocate_autoencoder
from vitrail.assembly.load import load_bundle
from vitrail.assembly.model import ModelBundle, with_merging
from vitrail.assembly.precision import inference_precision
from vitrail.contracts import Task
from vitrail.engine.precision import FP32, Precision, PrecisionChoice
from vitrail.errors import UsageError
from vitrail.inference.image_predictor import ImagePredictor
from vitrail.inference.image_predictor import Prediction as Prediction
from vitrail.inference.sample import BATCH as SAMPLES
from vitrail.inference.sample import default_sampling, request_per_class, resolve_classes, sample_images
from vitrail.inference.stream import predict_pixels
from vitrail.layers.merge import Merge
from vitrail.recipe import Recipe, Seed
from vitrail.tasks.diffusion import Sampling
from vitrail.validation import Positive, validate


@dataclass(frozen=True, repr=False)
class Predictor(ImagePredictor):
    """A model from a run, a model folder or a file, in torch."""

    model: nn.Module
    classes: tuple[str, ...]
    recipe: Recipe
    task: Task
    source: Path
    origin: Mapping[str, Any] = field(default_factory=dict)  # of the published weights that it began with
    choice: PrecisionChoice = FP32

    @property
    def bundle(self) -> ModelBundle:
        return ModelBundle(self.model, self.task, self.recipe, self.classes, self.origin)

    def predict_pixels(self, images: Sequence[np.ndarray]) -> Sequence[Any]:
        """uint8 [H W C] each -> probabilities [K], a label map or boxes of each."""
        return predict_pixels(self.bundle, self.preprocess, images, self.precision)

    @property
    def precision(self) -> Precision:
        return Precision(self.choice.name, next(self.model.parameters()).device.type)

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


def load_predictor(
    source: str | Path,
    device: str = "cpu",
    average: int = 1,
    vae: str = "",
    weights: Literal["best", "last"] = "best",
    precision: str = "fp32",
    merge: Merge | None = None,
) -> Predictor:
    """A predictor from a run, a model folder or a file. vae: the folder of the autoencoder of a model of latents;
    weights: of a run, the best that it kept, or the last; precision: fp32, bf16, or auto, by what the processor states
    and the size of the model; merge: see `with_merging`. Errors: `CheckpointError`; `UsageError` for a model that
    merges no tokens."""
    bundle, path = load_bundle(source, average, weights)
    bundle = with_merging(bundle, merge)
    return build_predictor(
        dataclasses.replace(bundle, recipe=relocate_autoencoder(bundle.recipe, vae)), path, device, precision
    )


def build_predictor(bundle: ModelBundle, path: Path, device: str, precision: str = "fp32") -> Predictor:
    from vitrail.engine.processes.world import best_device, named_device

    target = best_device() if device == "auto" else named_device(device)
    choice = inference_precision(precision, bundle.recipe, target)
    model = bundle.model.to(target).eval()
    return Predictor(model, bundle.classes, bundle.recipe, bundle.task, path, bundle.origin, choice)


def at_size(predictor: ImagePredictor, size: tuple[int, int]) -> Predictor:
    """A predictor that resizes images to another (height, width). Errors: `UsageError` for an exported file, and for a
    size that the model cannot take."""
    if not isinstance(predictor, Predictor):
        raise UsageError("--img-size takes a model in torch, not an exported file", "leave --img-size out")
    if min(size) < 1:
        raise UsageError(f"images of {size[0]}x{size[1]} are not possible", "--img-size HEIGHT WIDTH")
    device = next(predictor.model.parameters()).device
    try:
        with torch.no_grad():
            predictor.model(torch.zeros(1, predictor.preprocess.channels, *size, device=device))
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"the model cannot take images of {size[0]}x{size[1]}: {str(error).splitlines()[0][:160]}",
            "give another --img-size",
        ) from None
    resized = dataclasses.replace(predictor.recipe.input, size=size)
    return dataclasses.replace(predictor, recipe=dataclasses.replace(predictor.recipe, input=resized))
