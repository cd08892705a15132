"""What a trained model looks at: on images one by one, and over images of its data."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vitrail.analysis.attention import Heads, LayerAttention, Layers, attention, choose_attentions, find_attentions
from vitrail.analysis.cam import gradient_cam
from vitrail.analysis.hooks import ModelInputs
from vitrail.analysis.overlay import compute_extent, overlay_map
from vitrail.analysis.rollout import relevance, rollout, summary_row
from vitrail.contracts import Denoiser, GenerativeTask, HeadedModel
from vitrail.data.dataset import Split
from vitrail.data.subset import evenly_spaced
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.errors import BadImage, UsageError, choose
from vitrail.inference.inputs import as_list, read_pixels
from vitrail.inference.predictor import Predictor
from vitrail.tasks.diffusion.guidance import NoiseStreams
from vitrail.types import Batch, Grid

BATCH = 8  # images at a time: the weights of all their layers are held
LAYERS = 4  # layers that are shown where none are chosen
TIMES = (0.2, 0.5, 0.8)  # at which a model that makes images is looked at: how much of an image is there
SEED = 0  # of the noise in them


class HeatMap(NamedTuple):
    """One map of an image, [h w] over the model's canvas, or what its padding makes of it."""

    name: str  # of files and arrays
    values: Tensor
    covers: Grid


class ImageMaps(NamedTuple):
    """What was seen on one image, uint8 [H W C]. `said`: what the model says of it, "" where it tells no class."""

    image: np.ndarray
    prediction: str
    maps: tuple[HeatMap, ...]
    preprocess: Preprocess

    def overlay(self, one: HeatMap) -> np.ndarray:
        """uint8 [H W 3], at the image's resolution."""
        return overlay_map(self.image, one.values, self.preprocess, one.covers)


class AvailableMaps(NamedTuple):
    """How a model can be looked at, and why in a line."""

    attention: bool
    rollout: bool  # and relevance
    cam: bool
    reason: str


def available_maps(predictor: Predictor, layers: Layers = None) -> AvailableMaps:
    """Attention, rollout and relevance where the weights are there and follow one row of tokens; gradient CAM in their place.
    Errors: `UsageError` where layers are asked for that are not there."""
    net, name = predictor.model, predictor.recipe.model.name
    if isinstance(net, Denoiser):
        choose_attentions(net, layers)
        return AvailableMaps(
            True,
            False,
            False,
            f"{name} makes images: its attention is drawn, at several times on the way from noise to image",
        )
    if not find_attentions(net):
        if layers is not None:
            choose_attentions(net, layers)
        return AvailableMaps(
            False,
            False,
            True,
            f"{name} has no softmax attention, so gradient CAM is drawn: which cells the answer is told from",
        )
    choose_attentions(net, layers)
    try:
        rollout(
            net,
            prepare_images(
                predictor, [np.zeros((*predictor.preprocess.size, predictor.preprocess.channels), np.uint8)]
            ),
        )
    except UsageError as error:
        return AvailableMaps(
            True, False, True, f"{error.what}; so gradient CAM is drawn in place of rollout and relevance"
        )
    return AvailableMaps(
        True, True, False, f"{name} has softmax attention: its weights, rollout and relevance are drawn"
    )


def compute_maps(predictor: Predictor, images: Any, layers: Layers = None, heads: Heads = "mean", label: str = "",
        times: Sequence[float] = ()) -> list[ImageMaps]:  # fmt: skip
    """What the model looks at on one image or many, given as to `Predictor.predict`; one after the other.

    layers: as `vitrail.attention` takes them, by default four spread evenly over the depth. heads: numbers, or "mean", "min", "max".
    label: the class that relevance and gradient CAM speak for, by default the likeliest; that a denoiser is told, by default none.
    times: of a denoiser, from 0 (noise) to 1 (the image), by default `TIMES`. Errors: `UsageError`, `BadImage`.
    """
    found, wanted = available_maps(predictor, layers), None if not label else class_index(label, predictor.classes)
    shown = layers if layers is not None or not found.attention else spread(len(find_attentions(predictor.model)))
    at = noise_times(predictor, times)
    return [
        maps_of_image(predictor, read_pixels(item, predictor.preprocess), found, (shown, heads, wanted), at)
        for item in as_list(images)
    ]


def noise_times(predictor: Predictor, times: Sequence[float]) -> tuple[float, ...]:
    """Those at which a denoiser is looked at; none of other models. Errors: `UsageError`."""
    if not isinstance(predictor.model, Denoiser):
        if times:
            raise UsageError(
                f"{predictor.recipe.model.name} sees images without noise, at no time", "leave --times out"
            )
        return ()
    for time in times:
        if not 0 <= time <= 1:
            raise UsageError(f"a time cannot be {time:g}", "from 0, noise alone, to 1, the image")
    return tuple(times) or TIMES


def class_index(label: str, classes: Sequence[str]) -> int:
    return list(classes).index(choose(label, classes, "class"))


def spread(count: int) -> list[int]:
    """A few layers of so many, evenly spaced, the first and the last among them."""
    return sorted(set(np.linspace(0, count - 1, min(LAYERS, count)).round().astype(int).tolist()))


def maps_of_image(predictor: Predictor, image: np.ndarray, found: AvailableMaps, request: tuple[Layers, Heads, int | None],
          times: Sequence[float] = ()) -> ImageMaps:  # fmt: skip
    """One image. wish: layers, heads, class. times: of a denoiser."""
    (layers, heads, label), net, pre = request, predictor.model, whole_image(predictor.preprocess)
    maps = list[HeatMap]()
    for time in times:
        batch = noisy(predictor, prepare_images(predictor, [image]), time, label)
        looks = attention(net, batch, layers, heads)
        maps += [one._replace(name=f"{time:g}-{one.name}") for look in looks for one in of_layer(look, heads)]
    if found.attention and not times:
        maps += [
            one
            for look in attention(net, prepare_images(predictor, [image]), layers, heads)
            for one in of_layer(look, heads)
        ]
    kinds = ("rollout", "relevance") if found.rollout else ("gradient-cam",) if found.cam else ()
    maps += [heat_map(predictor, image, kind, label) for kind in kinds]
    return ImageMaps(image, predicted_label(predictor, image), tuple(maps), pre)


def heat_map(predictor: Predictor, image: np.ndarray, kind: str, label: int | None = None) -> HeatMap:
    """Where on one image an answer comes from, by "rollout", "relevance" or "gradient-cam" of a class, by default the likeliest."""
    net, batch = predictor.model, prepare_images(predictor, [image])
    if kind == "rollout":
        values = rollout(net, batch)
    else:
        values = (relevance if kind == "relevance" else gradient_cam)(net, batch, label)
    return HeatMap(kind, values[0], compute_extent(net, predictor.preprocess.size, (values.shape[1], values.shape[2])))


def of_layer(look: LayerAttention, heads: Heads) -> Iterator[HeatMap]:
    """What each head of a layer looks at: from the class token where there is one, else what the mean query looks at."""
    if not look.keys.maps:
        return
    lead = look.queries.leading
    looks = look.attention_from(0) if lead and bool(summary_row(look)[0, 0, :lead].any()) else look.attention_to()
    names = (
        [heads]
        if isinstance(heads, str)
        else [f"head-{h}" for h in (range(looks.shape[1]) if heads is None else heads)]
    )
    for name, one in zip(names, looks[0], strict=True):
        yield HeatMap(f"{look.name.removeprefix('backbone.')}-{name}", one, look.keys.maps[0].extent)


def noisy(predictor: Predictor, images: ModelInputs, time: float, label: int | None) -> ModelInputs:
    """Images as a denoiser takes them: with noise of `SEED`, the time, and a class, by default that of none."""
    task, model = predictor.task, predictor.model
    assert isinstance(images, Tensor)
    assert isinstance(task, GenerativeTask)
    assert isinstance(model, Denoiser)
    null = model.null
    draw = NoiseStreams(SEED, range(len(images)), tuple(images.shape[1:]), images.device)
    if predictor.recipe.input.vae is not None:
        raise UsageError(
            f"{predictor.recipe.model.name} sees latents, which are not looked at", "look at a denoiser of pixels"
        )
    z, t = task.add_noise_at(images, time, draw())
    return z, t, torch.full((len(images),), label if null and label is not None else null, device=images.device)


def check_same_inputs(predictor: Predictor, other: Predictor) -> Predictor:
    """The other, if it takes the very same images. Errors: `UsageError`."""
    one, two = predictor.preprocess, other.preprocess
    if one != two:
        different = [f.name for f in dataclasses.fields(one) if getattr(one, f.name) != getattr(two, f.name)]
        raise UsageError(f"layers are compared on the same images, and these models want them prepared otherwise: {', '.join(different)}",
                         "compare models of one data set and size")  # fmt: skip
    return other


def predicted_label(predictor: Predictor, image: np.ndarray) -> str:
    if not predictor.task.is_classifier:
        return ""
    labels, rows = predictor.predict([image])
    return labels[0] if predictor.task.multi_label else f"{labels[0]} {float(rows[0].max()):.1%}"


def whole_image(pre: Preprocess) -> Preprocess:
    """An image as one canvas, where the model looks at windows otherwise."""
    return dataclasses.replace(pre, resize_mode="fit") if pre.resize_mode in ("slide", "tile") else pre


def prepare_images(predictor: Predictor, pictures: Sequence[np.ndarray]) -> ModelInputs:
    """Images uint8 [H W C] as the model takes them: normalised, and for boxes with how much of the canvas they fill."""
    pre, device = whole_image(predictor.preprocess), next(predictor.model.parameters()).device
    images = pre.batch(torch.stack([pre.image(read_pixels(p, pre)) for p in pictures]).to(device))
    if not (isinstance(predictor.model, HeadedModel) and predictor.model.takes_sizes):
        return images
    return images, torch.tensor([pre.scaled_size(*p.shape[:2]) for p in pictures], device=device)


def readable_places(split: Split, count: int) -> list[int]:
    """Places of so many images, evenly spaced through a part, those that cannot be read left out."""
    if not len(split) or count < 1:
        raise UsageError("there are no images to look at", "--count 64, and --split names a part of the data")
    return [int(i) for i in evenly_spaced(len(split), count)]


def read_images(split: Split, places: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
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


def read_batches(predictor: Predictor, split: Split, count: int) -> Iterator[ModelInputs]:
    """So many images of a part, a few at a time; a last batch of fewer than four goes with the one before."""
    held: list[np.ndarray] = []
    for _, image in read_images(split, readable_places(split, count)):
        if len(held) == BATCH + 3:
            yield prepare_images(predictor, held[:BATCH])
            held = held[BATCH:]
        held.append(image)
    if held:
        yield prepare_images(predictor, held)


def loss_on_batch(predictor: Predictor, split: Split, count: int) -> Any:
    """The loss of the labels on one batch of a part, as a function of the model. Errors: `UsageError` for tasks without such labels."""
    if predictor.task.is_dense:
        raise UsageError(
            f"gradients are of the loss of labels, and this model tells {predictor.task.output}",
            "leave --gradients out",
        )
    places, images = zip(*read_images(split, readable_places(split, count)), strict=True)
    batch, labels = prepare_images(predictor, images), torch.from_numpy(np.asarray(split.labels[list(places)]))
    assert isinstance(batch, Tensor)
    return lambda net: predictor.task.loss(net, Batch(batch, labels.to(batch.device)))
