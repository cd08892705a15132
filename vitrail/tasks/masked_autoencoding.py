"""Masked autoencoding: predict the pixels of the patches that the backbone did not see; no labels (MAE, He et al. 2021,
arxiv.org/abs/2111.06377)."""

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Gt, Lt
from torch import Tensor, nn

from vitrail.contracts import Metric, StatelessTask
from vitrail.data.dataset import AnnotationKind
from vitrail.data.sampling import derive_seed
from vitrail.data.transforms.augment import Augmentation
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.errors import UsageError
from vitrail.heads.masked_autoencoder import MaskedAutoencoder, Reconstruction
from vitrail.models import vit
from vitrail.recipe import Recipe
from vitrail.tasks._defaults.features import FeatureDefaults
from vitrail.tasks._features import DrawingTask, FeatureTask
from vitrail.tasks._transforms import build_augmentation
from vitrail.types import Batch
from vitrail.validation import Count

ANNOTATIONS: AnnotationKind = "none"
DEFAULT_FOR = "backbone"
HELD_OUT = 0  # the seed of the masks of held-out images
HEAD_WIDTH = 32  # channels of a head of the decoder, as published
VARIANCE = 1e-6  # is added to that of the pixels of a patch


@dataclass(frozen=True)
class Config:
    mask_ratio: Annotated[float, Gt(0), Lt(1)] = 0.75  # share of the patches that the backbone does not see
    normalise_pixels: bool = True  # targets are the pixels of a patch with mean 0 and variance 1
    decoder_width: Count = 0  # 0: 512 as published, less for a narrow backbone
    decoder_depth: Count = 0  # 0: 8 as published, less for a shallow backbone


class MaskedAutoencoding(FeatureTask, StatelessTask, DrawingTask):
    """The loss is the mean squared error of the pixels of masked patches."""

    metric = Metric("held_out_loss", higher_is_better=False)
    held_out_terms = ("held_out_loss",)
    keeps_settings = True  # the decoder fits its own alone

    def __init__(self, config: Config):
        self.config = config

    def assemble(self, trunk: nn.Module) -> MaskedAutoencoder:
        """Errors: `UsageError` for a backbone that needs every patch."""
        decoder = decoder_config(self.config, trunk)
        model = MaskedAutoencoder(trunk, decoder, self.config.mask_ratio)
        self.width = sum(model.backbone.summary_widths)
        return model

    def transform(self, recipe: Recipe, preprocess: Preprocess) -> Augmentation:
        return build_augmentation(recipe, preprocess)

    def loss(self, model: Any, batch: Batch) -> dict[str, Tensor]:
        """Which patches are masked comes from torch's global generator."""
        grid = model.grid(batch.inputs)
        noise = torch.rand(len(batch.inputs), grid[0] * grid[1], device=batch.inputs.device)
        errors = self.errors(model, batch.inputs, model.reconstruct(batch.inputs, noise))
        return {"reconstruction": errors.mean()}

    def errors(self, model: Any, images: Tensor, predicted: Reconstruction) -> Tensor:
        """The mean squared error over the masked patches of every image, [B]."""
        targets = model.patches(images).float()
        if self.config.normalise_pixels:
            mean, std = pixel_statistics(targets)
            targets = (targets - mean) / std
        errors = (predicted.pixels.float() - targets).square().mean(2)  # [B N]
        return (errors * predicted.masked).sum(1) / predicted.masked.sum(1).clamp(min=1)

    def held_out(self, model: Any, images: Tensor, ids: np.ndarray) -> Tensor:
        return self.errors(model, images, model.reconstruct(images, self.held_out_noise(model, images, ids)))[:, None]

    def held_out_noise(self, model: Any, images: Tensor, ids: np.ndarray) -> Tensor:
        """[B N], of every image by its number alone."""
        grid = model.grid(images)
        streams = [torch.Generator().manual_seed(derive_seed(HELD_OUT, int(i), 0)) for i in ids]
        return torch.stack([torch.rand(grid[0] * grid[1], generator=one) for one in streams]).to(images.device)

    def draw(self, model: Any, images: Tensor, ids: np.ndarray) -> dict[str, Tensor]:
        """The visible patches, and the predicted ones among them. Normalised pixels are given the mean and the standard
        deviation of the true patch, as in the paper's figures: the model does not predict those."""
        predicted, size = model.reconstruct(images, self.held_out_noise(model, images, ids)), images.shape[-2:]
        true, pixels, masked = model.patches(images), predicted.pixels, predicted.masked[..., None]
        if self.config.normalise_pixels:
            mean, std = pixel_statistics(true)
            pixels = pixels * std + mean
        return {
            "visible": model.unpatch(torch.where(masked, 0.0, true), size),
            "reconstructed": model.unpatch(torch.where(masked, pixels, true), size),
            "image": images,
        }

    def defaults(self) -> FeatureDefaults:
        return FeatureDefaults()


def pixel_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the pixels of patches [B N P], each [B N 1]; of a single pixel the variance is
    0."""
    variance = patches.var(2, keepdim=True, correction=1 if patches.shape[2] > 1 else 0)
    return patches.mean(2, keepdim=True), (variance + VARIANCE).sqrt()


def decoder_config(config: Config, trunk: Any) -> vit.Config:
    """The decoder of a backbone. Errors: `UsageError` for a width that its heads do not divide."""
    depth = config.decoder_depth or max(1, min(8, 2 * len(trunk.blocks) // 3))
    wide = 512 if trunk.map_widths[-1] >= 512 else max(64, trunk.map_widths[-1] // 2)
    width = config.decoder_width or wide // HEAD_WIDTH * HEAD_WIDTH
    if width % HEAD_WIDTH:
        low = max(HEAD_WIDTH, width // HEAD_WIDTH * HEAD_WIDTH)
        what = f"task.decoder_width is {width}, and its heads have {HEAD_WIDTH} channels"
        raise UsageError(what, f"{low} or {low + HEAD_WIDTH}")
    return vit.Config(width=width, depth=depth, heads=width // HEAD_WIDTH)


def build(config: Config) -> MaskedAutoencoding:
    return MaskedAutoencoding(config)
