"""What a trained model looks at: on pictures one by one, and over pictures of its data."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vitrail.analysis.attention import Heads, Layers, Look, attention, choose, sites
from vitrail.analysis.cam import gradient_cam
from vitrail.analysis.hooks import Given
from vitrail.analysis.overlay import extent, onto
from vitrail.analysis.rollout import relevance, rollout, summary
from vitrail.contracts import Denoiser, GenerativeTask, HeadedModel
from vitrail.data.dataset import Split
from vitrail.data.subset import spaced
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.errors import BadImage, UsageError, pick
from vitrail.inference.inputs import one_by_one, pixels
from vitrail.inference.predictor import Predictor
from vitrail.tasks.diffusion.guidance import Streams
from vitrail.types import Batch, Grid

BATCH = 8  # pictures at a time: the weights of all their layers are held
LAYERS = 4  # layers that are shown where none are chosen
TIMES = (0.2, 0.5, 0.8)  # at which a model that makes pictures is looked at: how much of a picture is there
SEED = 0  # of the noise in them


class Map(NamedTuple):
    """One map of a picture, [h w] over the model's canvas, or what its padding makes of it."""

    name: str  # of files and arrays
    values: Tensor
    covers: Grid


class Sight(NamedTuple):
    """What was seen on one picture, uint8 [H W C]. `said`: what the model says of it, "" where it tells no class."""

    picture: np.ndarray
    said: str
    maps: tuple[Map, ...]
    preprocess: Preprocess

    def overlay(self, one: Map) -> np.ndarray:
        """uint8 [H W 3], at the picture's resolution."""
        return onto(self.picture, one.values, self.preprocess, one.covers)


class Ways(NamedTuple):
    """How a model can be looked at, and why in a line."""

    attention: bool
    rollout: bool  # and relevance
    cam: bool
    reason: str


def ways(predictor: Predictor, layers: Layers = None) -> Ways:
    """Attention, rollout and relevance where the weights are there and follow one row of tokens; gradient CAM in their place.
    Errors: `UsageError` where layers are asked for that are not there."""
    net, name = predictor.model, predictor.recipe.model.name
    if isinstance(net, Denoiser):
        choose(net, layers)
        return Ways(True, False, False, f"{name} makes pictures: its attention is drawn, at several times on the way from noise to picture")
    if not sites(net):
        if layers is not None:
            choose(net, layers)
        return Ways(False, False, True, f"{name} has no softmax attention, so gradient CAM is drawn: which cells the answer is told from")
    choose(net, layers)
    try:
        rollout(net, given(predictor, [np.zeros((*predictor.preprocess.size, predictor.preprocess.channels), np.uint8)]))
    except UsageError as error:
        return Ways(True, False, True, f"{error.what}; so gradient CAM is drawn in place of rollout and relevance")
    return Ways(True, True, False, f"{name} has softmax attention: its weights, rollout and relevance are drawn")


def see(predictor: Predictor, pictures: Any, layers: Layers = None, heads: Heads = "mean", label: str = "",
        times: Sequence[float] = ()) -> list[Sight]:  # fmt: skip
    """What the model looks at on one picture or many, given as to `Predictor.predict`; one after the other.

    layers: as `vitrail.attention` takes them, by default four spread evenly over the depth. heads: numbers, or "mean", "min", "max".
    label: the class that relevance and gradient CAM speak for, by default the likeliest; that a denoiser is told, by default none.
    times: of a denoiser, from 0 (noise) to 1 (the picture), by default `TIMES`. Errors: `UsageError`, `BadImage`.
    """
    found, wanted = ways(predictor, layers), None if not label else named(label, predictor.classes)
    shown = layers if layers is not None or not found.attention else spread(len(sites(predictor.model)))
    at = moments(predictor, times)
    return [sight(predictor, pixels(item, predictor.preprocess), found, (shown, heads, wanted), at) for item in one_by_one(pictures)]


def moments(predictor: Predictor, times: Sequence[float]) -> tuple[float, ...]:
    """Those at which a denoiser is looked at; none of other models. Errors: `UsageError`."""
    if not isinstance(predictor.model, Denoiser):
        if times:
            raise UsageError(f"{predictor.recipe.model.name} sees pictures without noise, at no time", "leave --times out")
        return ()
    for time in times:
        if not 0 <= time <= 1:
            raise UsageError(f"a time cannot be {time:g}", "from 0, noise alone, to 1, the picture")
    return tuple(times) or TIMES


def named(label: str, classes: Sequence[str]) -> int:
    return list(classes).index(pick(label, classes, "class"))


def spread(count: int) -> list[int]:
    """A few layers of so many, evenly spaced, the first and the last among them."""
    return sorted(set(np.linspace(0, count - 1, min(LAYERS, count)).round().astype(int).tolist()))


def sight(predictor: Predictor, picture: np.ndarray, found: Ways, wish: tuple[Layers, Heads, int | None],
          times: Sequence[float] = ()) -> Sight:  # fmt: skip
    """One picture. wish: layers, heads, class. times: of a denoiser."""
    (layers, heads, label), net, pre = wish, predictor.model, whole(predictor.preprocess)
    maps = list[Map]()
    for time in times:
        batch = noisy(predictor, given(predictor, [picture]), time, label)
        looks = attention(net, batch, layers, heads)
        maps += [one._replace(name=f"{time:g}-{one.name}") for look in looks for one in of_layer(look, heads)]
    if found.attention and not times:
        maps += [one for look in attention(net, given(predictor, [picture]), layers, heads) for one in of_layer(look, heads)]
    kinds = ("rollout", "relevance") if found.rollout else ("gradient-cam",) if found.cam else ()
    maps += [heat(predictor, picture, kind, label) for kind in kinds]
    return Sight(picture, said(predictor, picture), tuple(maps), pre)


def heat(predictor: Predictor, picture: np.ndarray, kind: str, label: int | None = None) -> Map:
    """Where on one picture an answer comes from, by "rollout", "relevance" or "gradient-cam" of a class, by default the likeliest."""
    net, batch = predictor.model, given(predictor, [picture])
    if kind == "rollout":
        values = rollout(net, batch)
    else:
        values = (relevance if kind == "relevance" else gradient_cam)(net, batch, label)
    return Map(kind, values[0], extent(net, predictor.preprocess.size, (values.shape[1], values.shape[2])))


def of_layer(look: Look, heads: Heads) -> Iterator[Map]:
    """What each head of a layer looks at: from the class token where there is one, else what the mean query looks at."""
    if not look.keys.maps:
        return
    lead = look.queries.leading
    looks = look.seen_by(0) if lead and bool(summary(look)[0, 0, :lead].any()) else look.received()
    names = [heads] if isinstance(heads, str) else [f"head-{h}" for h in (range(looks.shape[1]) if heads is None else heads)]
    for name, one in zip(names, looks[0], strict=True):
        yield Map(f"{look.name.removeprefix('backbone.')}-{name}", one, look.keys.maps[0].extent)


def noisy(predictor: Predictor, images: Given, time: float, label: int | None) -> Given:
    """Pictures as a denoiser takes them: with noise of `SEED`, the time, and a class, by default that of none."""
    task, model = predictor.task, predictor.model
    assert isinstance(images, Tensor)
    assert isinstance(task, GenerativeTask)
    assert isinstance(model, Denoiser)
    null = model.null
    draw = Streams(SEED, range(len(images)), tuple(images.shape[1:]), images.device)
    if predictor.recipe.input.vae is not None:
        raise UsageError(f"{predictor.recipe.model.name} sees latents, which are not looked at", "look at a denoiser of pixels")
    z, t = task.noisy(images, time, draw())
    return z, t, torch.full((len(images),), label if null and label is not None else null, device=images.device)


def alike(predictor: Predictor, other: Predictor) -> Predictor:
    """The other, if it takes the very same pictures. Errors: `UsageError`."""
    one, two = predictor.preprocess, other.preprocess
    if one != two:
        different = [f.name for f in dataclasses.fields(one) if getattr(one, f.name) != getattr(two, f.name)]
        raise UsageError(f"layers are compared on the same pictures, and these models want them prepared otherwise: {', '.join(different)}",
                         "compare models of one data set and size")  # fmt: skip
    return other


def said(predictor: Predictor, picture: np.ndarray) -> str:
    if not predictor.task.is_classifier:
        return ""
    labels, rows = predictor.predict([picture])
    return labels[0] if predictor.task.multi_label else f"{labels[0]} {float(rows[0].max()):.1%}"


def whole(pre: Preprocess) -> Preprocess:
    """A picture as one canvas, where the model looks at windows otherwise."""
    return dataclasses.replace(pre, resize="fit") if pre.resize in ("slide", "tile") else pre


def given(predictor: Predictor, pictures: Sequence[np.ndarray]) -> Given:
    """Pictures uint8 [H W C] as the model takes them: normalised, and for boxes with how much of the canvas they fill."""
    pre, device = whole(predictor.preprocess), next(predictor.model.parameters()).device
    images = pre.batch(torch.stack([pre.picture(pixels(p, pre)) for p in pictures]).to(device))
    if not (isinstance(predictor.model, HeadedModel) and predictor.model.takes_sizes):
        return images
    return images, torch.tensor([pre.scaled(*p.shape[:2]) for p in pictures], device=device)


def some(split: Split, count: int) -> list[int]:
    """Places of so many pictures, evenly spaced through a part, those that cannot be read left out."""
    if not len(split) or count < 1:
        raise UsageError("there are no pictures to look at", "--count 64, and --split names a part of the data")
    return [int(i) for i in spaced(len(split), count)]


def read(split: Split, places: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Those that can be read. Errors: `BadImage` where none can."""
    failed: BadImage | None = None
    count = 0
    for place in places:
        try:
            pixels_of = split.read(place)
        except BadImage as error:
            failed = error
            continue
        count += 1
        yield place, pixels_of
    if failed is not None and not count:
        raise failed


def batches(predictor: Predictor, split: Split, count: int) -> Iterator[Given]:
    """So many pictures of a part, a few at a time; a last batch of fewer than four goes with the one before."""
    held: list[np.ndarray] = []
    for _, picture in read(split, some(split, count)):
        if len(held) == BATCH + 3:
            yield given(predictor, held[:BATCH])
            held = held[BATCH:]
        held.append(picture)
    if held:
        yield given(predictor, held)


def loss_on(predictor: Predictor, split: Split, count: int) -> Any:
    """The loss of the labels on one batch of a part, as a function of the model. Errors: `UsageError` for tasks without such labels."""
    if predictor.task.is_dense:
        raise UsageError(f"gradients are of the loss of labels, and this model tells {predictor.task.output}", "leave --gradients out")
    places, pictures = zip(*read(split, some(split, count)), strict=True)
    batch, labels = given(predictor, pictures), torch.from_numpy(np.asarray(split.labels[list(places)]))
    assert isinstance(batch, Tensor)
    return lambda net: predictor.task.loss(net, Batch(batch, labels.to(batch.device)))
