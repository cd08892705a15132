"""Diffusion: a denoiser learns to generate images of classes from noise, by Gaussian diffusion (DiT) or along straight paths (JiT).

Labels are dropped at random, so that the network also learns to predict without one, for classifier-free guidance.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from vitrail.contracts import Denoiser, Evaluator, GenerativeTask, ImageReader, Metric, Output, Predictions
from vitrail.data.dataset import AnnotationKind
from vitrail.data.sampling import Keys, uniform_numbers
from vitrail.data.transforms.base import Transform
from vitrail.data.transforms.latents import LatentTransform
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.errors import UsageError
from vitrail.recipe import Recipe
from vitrail.tasks._defaults.generation import GenerationDefaults
from vitrail.tasks._transforms import build_augmentation
from vitrail.tasks.diffusion import flow, gaussian
from vitrail.tasks.diffusion.guidance import Guidance, NoiseStreams, device_of, guide_model
from vitrail.types import Batch
from vitrail.validation import Count, Fraction, NonNegative, Positive, PositiveFloat, UnitInterval

ANNOTATIONS: AnnotationKind = "classes"
DEFAULT_FOR = "denoiser"
FULL = 256  # pixels of a side up to which noise is not scaled; above, it grows with the side
HELD_OUT, TIME = 0, 0  # the seed of held-out times and noise, and the purpose of its random numbers
EDGE = 1e-6  # of the uniform numbers that times are computed from


@dataclass(frozen=True)
class Config:
    objective: Literal["gaussian", "flow"] = "gaussian"  # DiT's, JiT's
    classes: Count = 0  # 0: as many as the data has
    multi_label: bool = False  # not supported
    label_dropout: Fraction = 0.1
    steps: Positive = 1000  # gaussian: steps of the chain
    prediction: flow.Space = "x"  # flow: what the network predicts
    loss_space: flow.Space = "v"  # flow: the space of the loss
    t_mean: float = -0.8  # flow: times are the sigmoid of a normal distribution
    t_std: PositiveFloat = 0.8
    noise_scale: NonNegative | None = None  # flow: of the noise; None: the side of the image / 256, at least 1


@dataclass(frozen=True)
class Sampling:
    """Settings of sampling."""

    sampler: Literal["ddpm", "ddim", "heun", "euler"] | None = None  # None: ddpm or heun, by the objective
    steps: Positive = 50
    guidance: NonNegative = 1.0  # 1: none
    guided_channels: Count = 3  # 0: all
    interval: tuple[UnitInterval, UnitInterval] | None = None  # flow: the times with guidance; None: 0.1 to 1
    eta: UnitInterval = 0.0  # ddim: 0 deterministic, 1 as ddpm
    clip: bool = False  # gaussian: clip the predicted image to [-1, 1], for pixels


class Diffusion(GenerativeTask):
    """Loss and sampling of a `Denoiser`. Images are expected in [-1, 1], labels are int64 [B]."""

    annotations: AnnotationKind = ANNOTATIONS
    trains = "denoiser"
    output: Output = "images"
    metric = Metric("held_out_loss", higher_is_better=False)

    def __init__(self, config: Config):
        self.config = config
        self.chain = gaussian.linear_betas(config.steps) if config.objective == "gaussian" else None

    def output_names(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        return classes

    def assemble(self, trunk: nn.Module) -> Denoiser:
        """The denoiser itself. Errors: `UsageError` for another model, or one that does not fit the objective or the classes."""
        if not isinstance(trunk, Denoiser):
            raise UsageError(f"a {type(trunk).__name__} is not a denoiser", "--model dit/nano or jit/nano")
        if self.chain is None and trunk.learns_variance:
            raise UsageError(
                "a learned variance is for the gaussian objective",
                "--model.learn-sigma false, or --task.objective gaussian",
            )
        if trunk.null not in (0, self.config.classes):
            what = f"the model has {trunk.null} classes, the data has {self.config.classes}"
            raise UsageError(what, "leave model.classes out, or 0")
        return trunk

    def transform(self, recipe: Recipe, preprocess: Preprocess) -> Transform:
        if recipe.input.vae is not None:
            return LatentTransform(preprocess, recipe.train.seed)
        return build_augmentation(recipe, preprocess)

    def defaults(self) -> GenerationDefaults:
        return GenerationDefaults()

    def evaluator(self) -> "LossEvaluator":
        return LossEvaluator(self)

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Named terms. Time, noise and dropped labels come from torch's global generator, in this order."""
        x = batch.inputs
        if self.chain is not None:
            places = torch.randint(len(self.chain), (len(x),), device=x.device)
            noise = torch.randn_like(x)
            return self.gaussian(model, x, places, noise, self.drop_labels(model, batch.targets))
        t = torch.sigmoid(self.config.t_mean + self.config.t_std * torch.randn(len(x), device=x.device))
        noise = self.noise_scale(x) * torch.randn_like(x)
        return self.flow(model, x, t, noise, self.drop_labels(model, batch.targets))

    def targets(self, labels: Tensor) -> Tensor:
        """Labels as they are, int64 [B]."""
        return labels

    def count_targets(self, labels: Tensor, batch: int, all_reduce_sum: Callable[[Tensor], Tensor]) -> Tensor:
        """Every image counts for itself."""
        return labels

    def fit_class_weights(self, labels: Tensor) -> None:
        """The loss depends on no label's frequency."""

    def predict(self, model: nn.Module, images: Tensor) -> Tensor:
        """Errors: `UsageError` always."""
        raise UsageError("the model is generative and predicts no classes", "vitrail sample RUN")

    def held_out_loss(self, model: Any, images: Tensor, labels: Tensor, ids: np.ndarray) -> Tensor:
        """The loss of each image, [B 1], at a time and with noise that the image's number alone decides; no label is dropped."""
        u = torch.from_numpy(uniform_numbers(HELD_OUT, Keys(np.zeros_like(ids), ids), TIME))
        noise = NoiseStreams(HELD_OUT, ids.tolist(), tuple(images.shape[1:]), images.device)()
        labels = labels if model.null else torch.zeros_like(labels)
        if self.chain is not None:
            terms = self.each_gaussian(model, images, (u * len(self.chain)).long().to(images.device), noise, labels)
        else:
            t = torch.sigmoid(self.config.t_mean + self.config.t_std * torch.special.ndtri(u.clamp(EDGE, 1 - EDGE)))
            terms = self.each_flow(model, images, t.float().to(images.device), self.noise_scale(images) * noise, labels)
        return torch.stack(list(terms.values())).sum(0)[:, None]

    def drop_labels(self, model: Any, labels: Tensor) -> Tensor:
        """Labels, some of them at random replaced by that of no class."""
        drop = torch.rand(len(labels), device=labels.device) < self.config.label_dropout
        return torch.where(drop, model.null, labels) if model.null else torch.zeros_like(labels)

    def gaussian(
        self, model: nn.Module, x0: Tensor, places: Tensor, noise: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """The loss at given steps [B] of the chain and noise."""
        return mean_terms(self.each_gaussian(model, x0, places, noise, labels))

    def each_gaussian(
        self, model: nn.Module, x0: Tensor, places: Tensor, noise: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """The same of each image [B]."""
        assert self.chain is not None
        row = self.chain.rows(places)
        x = gaussian.add_noise(row, x0, noise)
        times = torch.tensor(self.chain.times, device=x.device)[places]
        out = model(x, times, labels).float()
        return gaussian.gaussian_losses(row, out, x0, x, noise, places == 0)

    def flow(self, model: nn.Module, x: Tensor, t: Tensor, noise: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The loss at given times [B] and noise, which is scaled already."""
        return mean_terms(self.each_flow(model, x, t, noise, labels))

    def each_flow(self, model: nn.Module, x: Tensor, t: Tensor, noise: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The same of each image [B]."""
        time = t[:, None, None, None]
        out = model(flow.interpolate(x, noise, time), t, labels).float()
        error = out - flow.flow_target(x, noise, self.config.prediction)
        weighted = flow.weight(time, self.config.prediction, self.config.loss_space) * error
        return {self.config.loss_space: weighted.square().flatten(1).mean(1)}

    def add_noise_at(self, x: Tensor, share: float, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Noisy images [B C H W], and the times [B] that the network is conditioned on: from pure noise at 0 to the image at 1."""
        if self.chain is not None:
            places = torch.full((len(x),), round((1 - share) * (len(self.chain) - 1)), device=x.device)
            times = torch.tensor(self.chain.times, device=x.device)
            return gaussian.add_noise(self.chain.rows(places), x, noise), times[places]
        t = torch.full((len(x),), share, device=x.device)
        return flow.interpolate(x, self.noise_scale(x) * noise, t[:, None, None, None]), t

    def noise_scale(self, x: Tensor) -> float:
        scale = self.config.noise_scale
        return max(1.0, (x.shape[-2] * x.shape[-1]) ** 0.5 / FULL) if scale is None else scale

    @torch.no_grad()
    def sample(
        self,
        model: nn.Module,
        labels: Tensor,
        sampling: Sampling,
        seed: int,
        numbers: Sequence[int] | None = None,
        size: tuple[int, int] | None = None,
    ) -> Iterator[Tensor]:
        """Generates an image for every label [B]: yields all of them after each step, the last being the result. Image number i
        depends on the seed and `numbers[i]` alone (by default 0 to B-1), not on the batch. Errors: `UsageError`."""
        config: Any = model.config
        shape = (config.channels, *(size or config.size))
        draw = NoiseStreams(seed, range(len(labels)) if numbers is None else numbers, shape, device_of(model))
        yield from self.states(model, draw(), labels.to(device_of(model)), sampling, draw)

    @torch.no_grad()
    def states(
        self, model: nn.Module, noise: Tensor, labels: Tensor, sampling: Sampling, draw: Any
    ) -> Iterator[Tensor]:
        """From noise [B C H W], not scaled yet, step by step; `draw()` gives the noise of a step. Errors: `UsageError`."""
        sampler = fit_sampling(sampling, self.config.objective)
        low, high = (float("-inf"), float("inf")) if self.chain is not None else sampling.interval or (0.1, 1.0)
        low = low or float("-inf")  # 0 includes time 0
        chain = None if self.chain is None else gaussian.respace_chain(self.chain, sampling.steps)
        times = flow.flow_times(sampling.steps) if chain is None else chain.times[::-1]
        labels, guidance = (
            labels if model.null else labels * 0,
            Guidance(sampling.guidance, sampling.guided_channels, low, high),
        )
        denoise = guide_model(model, labels, guidance, times)
        if chain is not None:
            if sampler == "ddpm":
                yield from gaussian.ddpm_steps(denoise, noise, chain, draw, sampling.clip)
            else:
                yield from gaussian.ddim_steps(denoise, noise, chain, draw, sampling.clip, sampling.eta)
            return

        def speed(z: Tensor, t: float) -> Tensor:
            return flow.velocity(denoise(z, t).float(), z, t, self.config.prediction)

        yield from (flow.heun if sampler == "heun" else flow.euler)(
            speed, self.noise_scale(noise) * noise, sampling.steps
        )


class LossEvaluator(Evaluator):
    """Evaluates a denoiser by the loss of every held-out image."""

    def __init__(self, task: Diffusion):
        self.task = task

    def predictions(self, images: ImageReader) -> Predictions:
        return images.by_batch(self.task.held_out_loss, 1)

    def metrics(self, predictions: Predictions) -> Mapping[str, Any]:
        """The mean of the losses [N 1], also by class."""
        losses, targets, classes = (
            predictions.rows[:, 0].double(),
            predictions.targets,
            max(1, self.task.config.classes),
        )
        counts = torch.bincount(targets, minlength=classes)
        sums = torch.zeros(classes, dtype=torch.float64).index_add(0, targets, losses)
        by_class = {"held_out_loss": (sums / counts.clamp(min=1)).tolist(), "count": counts.tolist()}
        return {"held_out_loss": float(losses.mean()), "count": len(losses), "per_class": by_class}

    def arrays(self, predictions: Predictions) -> dict[str, np.ndarray]:
        return {"losses": predictions.rows.numpy()}

    def files(self, predictions: Predictions, images: ImageReader) -> Mapping[str, bytes]:
        """None: samples are saved by their callers."""
        return {}


def mean_terms(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: each.mean() for name, each in terms.items()}


def fit_sampling(how: Sampling, objective: str) -> str:
    """The sampler, by default that of the objective. Errors: `UsageError` for settings that exclude each other."""
    known = ("ddpm", "ddim") if objective == "gaussian" else ("heun", "euler")
    sampler = how.sampler or known[0]
    if sampler not in known:
        raise UsageError(f"the sampler {sampler} is not for the {objective} objective", f"{' or '.join(known)}")
    for name, given, wanted in (
        ("eta", how.eta, sampler == "ddim"),
        ("clip", how.clip, objective == "gaussian"),
        ("interval", how.interval, objective == "flow"),
    ):
        if given and not wanted:
            raise UsageError(f"{name} has no meaning for the sampler {sampler}", "leave it out")
    return sampler


def build(config: Config) -> Diffusion:
    """The task. Errors: `UsageError`."""
    if config.multi_label:
        raise UsageError(
            "diffusion is conditioned on one class an image, and these images have several", "--task classification"
        )
    return Diffusion(config)
