"""Samples of a trained denoiser: of classes, from seeds, interpolations between two of them, and the steps in
between."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.assembly.autoencoder import build_decoder
from vitrail.assembly.model import ModelBundle
from vitrail.contracts import Denoiser, GenerativeTask, trunk_of
from vitrail.data.encode import encode_png, to_rgb
from vitrail.errors import UsageError, choose
from vitrail.layers.modes import evaluation_mode
from vitrail.tasks.diffusion import Sampling
from vitrail.tasks.diffusion.guidance import NoiseStreams, device_of

BATCH = 64  # images at a time
GUIDANCE, STEPS = 2.0, 50  # defaults
ACROSS, DOWN, QUICK = 6, 10, 20  # images of a class, classes, and steps in an evaluation

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class SampleRequest:
    """The images to generate: `labels` of the classes, int64 [N], and the `numbers` of the images [N], which with the
    seed decide their noise. interpolation: the weight of the seed `other`, or of the class `towards`, from 0 to 1
    [N]."""

    labels: tuple[int, ...]
    numbers: tuple[int, ...]
    seed: int = 0
    interpolation: tuple[float, ...] = ()
    other: int | None = None
    towards: int | None = None


def null_label(bundle: ModelBundle) -> int:
    """The label of no class; 0 for a model without classes. Errors: `UsageError` for a model that is not generative."""
    if not isinstance(bundle.model, Denoiser):
        raise UsageError(f"{bundle.recipe.model.name} is not a generative model", "use a run of a dit or jit model")
    return bundle.model.null


def request_per_class(labels: Sequence[int], count: int, seed: int) -> SampleRequest:
    """`count` images of every class; image i of each starts from the same noise."""
    return SampleRequest(
        tuple(label for label in labels for _ in range(count)), tuple(range(count)) * len(labels), seed
    )


def resolve_classes(bundle: ModelBundle, names: Sequence[str | int]) -> list[int]:
    """Classes by name or index; by default all, and 0 for a model without classes. Errors: `UsageError` with the
    nearest."""
    if not bundle.task.is_generative:
        raise UsageError(f"{bundle.recipe.model.name} is not a generative model", "use a run of a dit or jit model")
    null = null_label(bundle)
    if null == 0:
        if names:
            raise UsageError("the model was trained without classes", "leave --class out")
        return [0]
    labels = []
    for name in names or range(null):
        text = str(name)
        if text in bundle.classes:
            labels.append(bundle.classes.index(text))
        elif text.isdecimal() and int(text) < null:
            labels.append(int(text))
        elif text.isdecimal():
            raise UsageError(
                f"there is no class {text}: they are numbered from 0 to {null - 1}",
                f"or use a name, such as {bundle.classes[0]}",
            )
        else:
            choose(text, bundle.classes, "class", f"classes: {', '.join(bundle.classes[:12])}")
    return labels


def default_sampling(
    bundle: ModelBundle, sampling: Sampling | None = None, guidance: float | None = None, steps: int = STEPS
) -> Sampling:
    """The default sampling: images of Gaussian diffusion are clipped to [-1, 1], unless they are latents; a model
    without classes has no guidance."""
    if sampling is not None:
        return sampling
    null = null_label(bundle)
    gaussian = bundle.task.config.objective == "gaussian"
    scale = 1.0 if not null else GUIDANCE if guidance is None else guidance
    if not null and guidance not in (None, 1.0):
        raise UsageError("the model was trained without classes, so it has no guidance", "leave --guidance out")
    return Sampling(steps=steps, guidance=scale, clip=gaussian and bundle.recipe.input.vae_hash is None)


def sample_images(
    bundle: ModelBundle,
    request: SampleRequest,
    sampling: Sampling,
    batch: int = BATCH,
    progress: Progress | None = None,
) -> np.ndarray:
    """uint8 [N H W C], the same whatever `batch` is, but for rounding. progress: called with (done, total). Errors:
    `UsageError`."""
    images, count, decode = [], len(request.labels), build_decoder(bundle.recipe.input, device_of(bundle.model))
    for start in range(0, count, batch):
        some = slice_request(request, slice(start, start + batch))
        for step, state in enumerate(denoise_batch(bundle, some, sampling)):
            last = state
            if progress:
                progress(start * sampling.steps + (step + 1) * len(some.labels), count * sampling.steps)
        images.append(as_uint8(decode(last)))
    return np.concatenate(images)


def sample_steps(
    bundle: ModelBundle, request: SampleRequest, sampling: Sampling, progress: Progress | None = None
) -> list[np.ndarray]:
    """The images after every step, uint8 [N H W C] each."""
    steps, decode = [], build_decoder(bundle.recipe.input, device_of(bundle.model))
    for step, state in enumerate(denoise_batch(bundle, request, sampling)):
        steps.append(as_uint8(decode(state)))
        if progress:
            progress(step + 1, sampling.steps)
    return steps


def slice_request(request: SampleRequest, which: slice) -> SampleRequest:
    return replace(
        request,
        labels=request.labels[which],
        numbers=request.numbers[which],
        interpolation=request.interpolation[which],
    )


@torch.no_grad()
def denoise_batch(bundle: ModelBundle, request: SampleRequest, sampling: Sampling) -> Iterator[Tensor]:
    """One batch, step by step, floats in [-1, 1] [B C H W], or latents."""
    model, task, device, shape = bundle.model, bundle.task, device_of(bundle.model), shape_of(bundle)
    assert isinstance(task, GenerativeTask)
    draw: Any = NoiseStreams(request.seed, request.numbers, shape, device)
    labels = torch.tensor(request.labels, device=device)
    if request.other is not None:
        draw = InterpolatedNoise(
            draw, NoiseStreams(request.other, request.numbers, shape, device), request.interpolation
        )
    if request.towards is not None:
        model, labels = with_mixed_classes(model, labels, request.towards, request.interpolation)
    with evaluation_mode(model):
        yield from task.states(model, draw(), labels, sampling, draw)


def shape_of(bundle: ModelBundle) -> tuple[int, ...]:
    """The shape of the output of a model [C H W]: of an image, or of a latent."""
    given, config = bundle.recipe.input, trunk_of(bundle.model).config
    assert given.size is not None
    return (given.channels, *given.size) if given.vae_hash is None else (config.channels, *config.size)


class InterpolatedNoise:
    """Spherical interpolation between two noise streams (Shoemake 1985)."""

    def __init__(self, first: NoiseStreams, second: NoiseStreams, weights: Sequence[float]):
        self.first, self.second, self.weights = first, second, weights

    def __call__(self) -> Tensor:
        a, b = self.first(), self.second()
        weight = torch.tensor(self.weights, device=a.device)[:, None, None, None]
        cosine = F.cosine_similarity(a.flatten(1), b.flatten(1))[:, None, None, None]
        angle = cosine.clamp(-1, 1).acos()
        apart = angle.sin().clamp(min=1e-6)
        between = (((1 - weight) * angle).sin() * a + (weight * angle).sin() * b) / apart
        return torch.where(angle.sin() > 1e-4, between, torch.lerp(a, b, weight))  # equal noise has no angle


def with_mixed_classes(
    model: nn.Module, labels: Tensor, towards: int, weights: Sequence[float]
) -> tuple[nn.Module, Tensor]:
    """The model with one more class for each image: the linear interpolation of the embeddings of its class and
    `towards`."""
    extended: Any = copy.copy(model)  # weights are shared, except for the class embedding
    extended._modules = dict(model._modules)
    table: Tensor = extended.label.weight
    weight = torch.tensor(weights, device=table.device, dtype=table.dtype)[:, None]
    rows = torch.lerp(table[labels], table[towards].expand(len(labels), -1), weight)
    extended.label = nn.Embedding.from_pretrained(torch.cat([table, rows]))
    return extended, torch.arange(len(labels), device=labels.device) + len(table)


def sample_portrait(bundle: ModelBundle) -> np.ndarray:
    """Images of every class, or of some evenly spaced, `ACROSS` of each, always from the same seed; uint8 [N H W C]."""
    null = null_label(bundle)
    how = default_sampling(bundle, steps=QUICK)
    if bundle.task.config.objective == "gaussian":
        how = replace(how, sampler="ddim")  # stochastic sampling needs more steps
    return sample_images(bundle, request_per_class(portrait_classes(null) if null else [0], ACROSS, 0), how)


def encode_sheet(images: np.ndarray, columns: int) -> bytes:
    """Images [N H W C] as one PNG; of other numbers of channels the first, or the first three."""
    grid = image_grid(images, columns)
    return encode_png(grid[:, :, 0] if grid.shape[2] < 3 else to_rgb(grid))


def portrait_classes(classes: int) -> list[int]:
    """The classes of a portrait."""
    return np.unique(np.linspace(0, classes - 1, min(DOWN, classes)).astype(int)).tolist()


def as_uint8(state: Tensor) -> np.ndarray:
    """Floats in [-1, 1] [B C H W] -> uint8 [B H W C]."""
    return (state.float().clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def image_grid(images: np.ndarray, columns: int, gap: int = 2) -> np.ndarray:
    """uint8 [N H W C] -> one image, a grid row by row, on white."""
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    grid = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 255, np.uint8)
    for i, one in enumerate(images):
        top, left = gap + (i // columns) * (height + gap), gap + (i % columns) * (width + gap)
        grid[top : top + height, left : left + width] = one
    return grid
