"""Pictures made by a trained denoiser: of classes, from seeds, on the way between two of them, and how they come about."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.assembly.latents import decoder
from vitrail.assembly.model import Described
from vitrail.contracts import Denoiser, GenerativeTask, trunk_of
from vitrail.data.encode import png, rgb
from vitrail.errors import UsageError, pick
from vitrail.tasks.diffusion import Sampling
from vitrail.tasks.diffusion.guidance import Streams, device_of

BATCH = 64  # pictures at a time
GUIDANCE, STEPS = 2.0, 50  # where nobody says
ACROSS, DOWN, QUICK = 6, 10, 20  # pictures of a class, classes, and steps, where a model is judged

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Wish:
    """What is to be made: `labels` of the classes, int64 [N], and the `numbers` of the pictures [N], which with the seed decide their
    noise. way: how far each is on the way to the seed `other`, or to the class `towards`, from 0 to 1 [N]."""

    labels: tuple[int, ...]
    numbers: tuple[int, ...]
    seed: int = 0
    way: tuple[float, ...] = ()
    other: int | None = None
    towards: int | None = None


def null_label(described: Described) -> int:
    """The label of no class; 0 for a model without classes. Errors: `UsageError` for a model that makes no pictures."""
    if not isinstance(described.model, Denoiser):
        raise UsageError(f"{described.recipe.model.name} tells what is in pictures and makes none", "give a run of a dit or jit model")
    return described.model.null


def several(labels: Sequence[int], count: int, seed: int) -> Wish:
    """`count` pictures of every class; picture i of each begins with the same noise."""
    return Wish(tuple(label for label in labels for _ in range(count)), tuple(range(count)) * len(labels), seed)


def asked(described: Described, names: Sequence[str | int]) -> list[int]:
    """Classes by name or index; all where none is said, and 0 for a model without classes. Errors: `UsageError` with the nearest."""
    if not described.task.is_generative:
        raise UsageError(f"{described.recipe.model.name} tells what is in pictures and makes none", "give a run of a dit or jit model")
    null = null_label(described)
    if null == 0:
        if names:
            raise UsageError("the model was trained without classes", "leave --class out")
        return [0]
    found = []
    for name in names or range(null):
        text = str(name)
        if text in described.classes:
            found.append(described.classes.index(text))
        elif text.isdecimal() and int(text) < null:
            found.append(int(text))
        elif text.isdecimal():
            raise UsageError(
                f"there is no class {text}: they are counted from 0 to {null - 1}", f"or by name, such as {described.classes[0]}"
            )
        else:
            pick(text, described.classes, "class", f"classes: {', '.join(described.classes[:12])}")
    return found


def usual(described: Described, how: Sampling | None = None, guidance: float | None = None, steps: int = STEPS) -> Sampling:
    """How pictures are made where little is said: those of Gaussian diffusion are held in [-1, 1], if they are no latents, and a model
    without classes has nothing to be guided by."""
    if how is not None:
        return how
    null = null_label(described)
    gaussian = described.task.config.objective == "gaussian"
    scale = 1.0 if not null else GUIDANCE if guidance is None else guidance
    if not null and guidance not in (None, 1.0):
        raise UsageError("the model was trained without classes, so there is nothing to guide it by", "leave --guidance out")
    return Sampling(steps=steps, guidance=scale, clip=gaussian and described.recipe.input.vae_hash is None)


def pictures(described: Described, wish: Wish, how: Sampling, batch: int = BATCH, progress: Progress | None = None) -> np.ndarray:
    """uint8 [N H W C], the same whatever `batch` is, but for rounding. progress: of (done, of). Errors: `UsageError`."""
    made, count, decode = [], len(wish.labels), decoder(described.recipe.input, device_of(described.model))
    for start in range(0, count, batch):
        some = part(wish, slice(start, start + batch))
        for step, state in enumerate(denoised(described, some, how)):
            last = state
            if progress:
                progress(start * how.steps + (step + 1) * len(some.labels), count * how.steps)
        made.append(shades(decode(last)))
    return np.concatenate(made)


def film(described: Described, wish: Wish, how: Sampling, progress: Progress | None = None) -> list[np.ndarray]:
    """All of them after every step, uint8 [N H W C] each."""
    found, decode = [], decoder(described.recipe.input, device_of(described.model))
    for step, state in enumerate(denoised(described, wish, how)):
        found.append(shades(decode(state)))
        if progress:
            progress(step + 1, how.steps)
    return found


def part(wish: Wish, which: slice) -> Wish:
    return replace(wish, labels=wish.labels[which], numbers=wish.numbers[which], way=wish.way[which])


@torch.no_grad()
def denoised(described: Described, wish: Wish, how: Sampling) -> Iterator[Tensor]:
    """One batch, step by step, floats in [-1, 1] [B C H W], or latents."""
    model, task, device, shape = described.model, described.task, device_of(described.model), shape_of(described)
    assert isinstance(task, GenerativeTask)
    draw: Any = Streams(wish.seed, wish.numbers, shape, device)
    labels = torch.tensor(wish.labels, device=device)
    if wish.other is not None:
        draw = Between(draw, Streams(wish.other, wish.numbers, shape, device), wish.way)
    if wish.towards is not None:
        model, labels = mixed(model, labels, wish.towards, wish.way)
    was_training = model.training
    model.eval()
    try:
        yield from task.states(model, draw(), labels, how, draw)
    finally:
        model.train(was_training)


def shape_of(described: Described) -> tuple[int, ...]:
    """Of what a model makes [C H W]: a picture, or the latent of one."""
    given, config = described.recipe.input, trunk_of(described.model).config
    assert given.size is not None
    return (given.channels, *given.size) if given.vae_hash is None else (config.channels, *config.size)


class Between:
    """Noise on the way from one stream to another, along the sphere that noise lies on (Shoemake 1985)."""

    def __init__(self, here: Streams, there: Streams, way: Sequence[float]):
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
    """The model with a class more for each picture, whose embedding is on the straight way from its own class to `towards`."""
    made: Any = copy.copy(model)  # weights are shared, all but the table of classes
    made._modules = dict(model._modules)
    table: Tensor = made.label.weight
    share = torch.tensor(way, device=table.device, dtype=table.dtype)[:, None]
    rows = torch.lerp(table[labels], table[towards].expand(len(labels), -1), share)
    made.label = nn.Embedding.from_pretrained(torch.cat([table, rows]))
    return made, torch.arange(len(labels), device=labels.device) + len(table)


def portrayed(described: Described) -> np.ndarray:
    """Pictures of every class, or of some evenly spaced, `ACROSS` of each, from the same seed whenever they are made; uint8 [N H W C]."""
    null = null_label(described)
    how = usual(described, steps=QUICK)
    if described.task.config.objective == "gaussian":
        how = replace(how, sampler="ddim")  # chance in so few steps would be seen
    return pictures(described, several(shown(null) if null else [0], ACROSS, 0), how)


def sheet(made: np.ndarray, columns: int) -> bytes:
    """Pictures [N H W C] as one PNG; of other numbers of channels the first, or the first three."""
    whole = grid(made, columns)
    return png(whole[:, :, 0] if whole.shape[2] < 3 else rgb(whole))


def shown(classes: int) -> list[int]:
    """The classes of a portrait."""
    return np.unique(np.linspace(0, classes - 1, min(DOWN, classes)).astype(int)).tolist()


def shades(state: Tensor) -> np.ndarray:
    """Floats in [-1, 1] [B C H W] -> uint8 [B H W C]."""
    return (state.float().clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def grid(made: np.ndarray, columns: int, gap: int = 2) -> np.ndarray:
    """uint8 [N H W C] -> one picture of them all, row by row, on white."""
    count, height, width, channels = made.shape
    rows = -(-count // columns)
    whole = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 255, np.uint8)
    for i, one in enumerate(made):
        top, left = gap + (i // columns) * (height + gap), gap + (i % columns) * (width + gap)
        whole[top : top + height, left : left + width] = one
    return whole
