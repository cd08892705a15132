"""Images made by a trained denoiser: of classes, from seeds, on the way between two of them, and how they come about."""

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
from vitrail.tasks.diffusion import Sampling
from vitrail.tasks.diffusion.guidance import NoiseStreams, device_of

BATCH = 64  # images at a time
GUIDANCE, STEPS = 2.0, 50  # where nobody says
ACROSS, DOWN, QUICK = 6, 10, 20  # images of a class, classes, and steps, where a model is judged

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class SampleRequest:
    """What is to be made: `labels` of the classes, int64 [N], and the `numbers` of the images [N], which with the seed decide their
    noise. way: how far each is on the way to the seed `other`, or to the class `towards`, from 0 to 1 [N]."""

    labels: tuple[int, ...]
    numbers: tuple[int, ...]
    seed: int = 0
    interpolation: tuple[float, ...] = ()
    other: int | None = None
    towards: int | None = None


def null_label(bundle: ModelBundle) -> int:
    """The label of no class; 0 for a model without classes. Errors: `UsageError` for a model that makes no images."""
    if not isinstance(bundle.model, Denoiser):
        raise UsageError(
            f"{bundle.recipe.model.name} tells what is in images and makes none", "give a run of a dit or jit model"
        )
    return bundle.model.null


def request_per_class(labels: Sequence[int], count: int, seed: int) -> SampleRequest:
    """`count` images of every class; image i of each begins with the same noise."""
    return SampleRequest(
        tuple(label for label in labels for _ in range(count)), tuple(range(count)) * len(labels), seed
    )


def resolve_classes(bundle: ModelBundle, names: Sequence[str | int]) -> list[int]:
    """Classes by name or index; all where none is said, and 0 for a model without classes. Errors: `UsageError` with the nearest."""
    if not bundle.task.is_generative:
        raise UsageError(
            f"{bundle.recipe.model.name} tells what is in images and makes none", "give a run of a dit or jit model"
        )
    null = null_label(bundle)
    if null == 0:
        if names:
            raise UsageError("the model was trained without classes", "leave --class out")
        return [0]
    found = []
    for name in names or range(null):
        text = str(name)
        if text in bundle.classes:
            found.append(bundle.classes.index(text))
        elif text.isdecimal() and int(text) < null:
            found.append(int(text))
        elif text.isdecimal():
            raise UsageError(
                f"there is no class {text}: they are counted from 0 to {null - 1}",
                f"or by name, such as {bundle.classes[0]}",
            )
        else:
            choose(text, bundle.classes, "class", f"classes: {', '.join(bundle.classes[:12])}")
    return found


def default_sampling(
    bundle: ModelBundle, sampling: Sampling | None = None, guidance: float | None = None, steps: int = STEPS
) -> Sampling:
    """How images are made where little is said: those of Gaussian diffusion are held in [-1, 1], if they are no latents, and a model
    without classes has nothing to be guided by."""
    if sampling is not None:
        return sampling
    null = null_label(bundle)
    gaussian = bundle.task.config.objective == "gaussian"
    scale = 1.0 if not null else GUIDANCE if guidance is None else guidance
    if not null and guidance not in (None, 1.0):
        raise UsageError(
            "the model was trained without classes, so there is nothing to guide it by", "leave --guidance out"
        )
    return Sampling(steps=steps, guidance=scale, clip=gaussian and bundle.recipe.input.vae_hash is None)


def sample_images(
    bundle: ModelBundle,
    request: SampleRequest,
    sampling: Sampling,
    batch: int = BATCH,
    progress: Progress | None = None,
) -> np.ndarray:
    """uint8 [N H W C], the same whatever `batch` is, but for rounding. progress: of (done, of). Errors: `UsageError`."""
    made, count, decode = [], len(request.labels), build_decoder(bundle.recipe.input, device_of(bundle.model))
    for start in range(0, count, batch):
        some = slice_request(request, slice(start, start + batch))
        for step, state in enumerate(denoise_batch(bundle, some, sampling)):
            last = state
            if progress:
                progress(start * sampling.steps + (step + 1) * len(some.labels), count * sampling.steps)
        made.append(shades(decode(last)))
    return np.concatenate(made)


def sample_steps(
    bundle: ModelBundle, request: SampleRequest, sampling: Sampling, progress: Progress | None = None
) -> list[np.ndarray]:
    """All of them after every step, uint8 [N H W C] each."""
    found, decode = [], build_decoder(bundle.recipe.input, device_of(bundle.model))
    for step, state in enumerate(denoise_batch(bundle, request, sampling)):
        found.append(shades(decode(state)))
        if progress:
            progress(step + 1, sampling.steps)
    return found


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
        model, labels = mixed(model, labels, request.towards, request.interpolation)
    was_training = model.training
    model.eval()
    try:
        yield from task.states(model, draw(), labels, sampling, draw)
    finally:
        model.train(was_training)


def shape_of(bundle: ModelBundle) -> tuple[int, ...]:
    """Of what a model makes [C H W]: an image, or the latent of one."""
    given, config = bundle.recipe.input, trunk_of(bundle.model).config
    assert given.size is not None
    return (given.channels, *given.size) if given.vae_hash is None else (config.channels, *config.size)


class InterpolatedNoise:
    """Noise on the way from one stream to another, along the sphere that noise lies on (Shoemake 1985)."""

    def __init__(self, here: NoiseStreams, there: NoiseStreams, way: Sequence[float]):
        self.here, self.there, self.way = here, there, way

    def __call__(self) -> Tensor:
        a, b = self.here(), self.there()
        way = torch.tensor(self.way, device=a.device)[:, None, None, None]
        cosine = F.cosine_similarity(a.flatten(1), b.flatten(1))[:, None, None, None]
        angle = cosine.clamp(-1, 1).acos()
        apart = angle.sin().clamp(min=1e-6)
        between = (((1 - way) * angle).sin() * a + (way * angle).sin() * b) / apart
        return torch.where(angle.sin() > 1e-4, between, torch.lerp(a, b, way))  # the same noise twice has no angle


def mixed(model: nn.Module, labels: Tensor, towards: int, way: Sequence[float]) -> tuple[nn.Module, Tensor]:
    """The model with a class more for each image, whose embedding is on the straight way from its own class to `towards`."""
    made: Any = copy.copy(model)  # weights are shared, all but the table of classes
    made._modules = dict(model._modules)
    table: Tensor = made.label.weight
    share = torch.tensor(way, device=table.device, dtype=table.dtype)[:, None]
    rows = torch.lerp(table[labels], table[towards].expand(len(labels), -1), share)
    made.label = nn.Embedding.from_pretrained(torch.cat([table, rows]))
    return made, torch.arange(len(labels), device=labels.device) + len(table)


def sample_portrait(bundle: ModelBundle) -> np.ndarray:
    """Images of every class, or of some evenly spaced, `ACROSS` of each, from the same seed whenever they are made; uint8 [N H W C]."""
    null = null_label(bundle)
    how = default_sampling(bundle, steps=QUICK)
    if bundle.task.config.objective == "gaussian":
        how = replace(how, sampler="ddim")  # chance in so few steps would be seen
    return sample_images(bundle, request_per_class(portrait_classes(null) if null else [0], ACROSS, 0), how)


def encode_sheet(made: np.ndarray, columns: int) -> bytes:
    """Images [N H W C] as one PNG; of other numbers of channels the first, or the first three."""
    whole = image_grid(made, columns)
    return encode_png(whole[:, :, 0] if whole.shape[2] < 3 else to_rgb(whole))


def portrait_classes(classes: int) -> list[int]:
    """The classes of a portrait."""
    return np.unique(np.linspace(0, classes - 1, min(DOWN, classes)).astype(int)).tolist()


def shades(state: Tensor) -> np.ndarray:
    """Floats in [-1, 1] [B C H W] -> uint8 [B H W C]."""
    return (state.float().clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def image_grid(made: np.ndarray, columns: int, gap: int = 2) -> np.ndarray:
    """uint8 [N H W C] -> one image of them all, row by row, on white."""
    count, height, width, channels = made.shape
    rows = -(-count // columns)
    whole = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 255, np.uint8)
    for i, one in enumerate(made):
        top, left = gap + (i // columns) * (height + gap), gap + (i % columns) * (width + gap)
        whole[top : top + height, left : left + width] = one
    return whole
