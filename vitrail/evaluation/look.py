"""Attention and relevance maps of a trained model: of single images, and over images of its data."""

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

BATCH = 8  # images at a time: the attention weights of all layers are in memory
LAYERS = 4  # layers by default
TIMES = (0.2, 0.5, 0.8)  # default times of a denoiser, from noise at 0 to the image at 1
SEED = 0  # of the noise


class HeatMap(NamedTuple):
    """One map of an image, [h w] over the model's canvas; `covers`: the grid without its padding."""

    name: str  # of files and arrays
    values: Tensor
    covers: Grid


class ImageMaps(NamedTuple):
    """The maps of one image, uint8 [H W C]. `prediction`: the label, "" for a model without classes."""

    image: np.ndarray
    prediction: str
    maps: tuple[HeatMap, ...]
    preprocess: Preprocess

    def overlay(self, one: HeatMap) -> np.ndarray:
        """uint8 [H W 3], at the image's resolution."""
        return overlay_map(self.image, one.values, self.preprocess, one.covers)


class AvailableMaps(NamedTuple):
    """The kinds of maps that a model has, and the reason in a line."""

    attention: bool
    rollout: bool  # and relevance
    cam: bool
    reason: str


def available_maps(predictor: Predictor, layers: Layers = None) -> AvailableMaps:
    """Attention, rollout and relevance for models with softmax attention over one sequence of tokens; gradient CAM for
    others. Errors: `UsageError` for layers that the model does not have."""
    net, name = predictor.model, predictor.recipe.model.name
    if isinstance(net, Denoiser):
        choose_attentions(net, layers)
        return AvailableMaps(
            True,
            False,
            False,
            f"{name} is a generative model: its attention is shown at several times between noise and image",
        )
    if not find_attentions(net):
        if layers is not None:
            choose_attentions(net, layers)
        return AvailableMaps(
            False,
            False,
            True,
            f"{name} has no softmax attention, so gradient CAM is shown: the cells that the prediction depends on",
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
            True, False, True, f"{error.what}; so gradient CAM is shown in place of rollout and relevance"
        )
    return AvailableMaps(
        True, True, False, f"{name} has softmax attention: its weights, rollout and relevance are shown"
    )


def compute_maps(
    predictor: Predictor,
    images: Any,
    layers: Layers = None,
    heads: Heads = "mean",
    label: str = "",
    times: Sequence[float] = (),
) -> list[ImageMaps]:
    """The maps of one image or many, given as to `Predictor.predict`; one after the other.

    layers: as `vitrail.attention` takes them, by default four spread evenly over the depth. heads: numbers, or "mean",
    "min", "max". label: the class of relevance and gradient CAM, by default the likeliest; the condition of a denoiser,
    by default none. times: of a denoiser, from 0 (noise) to 1 (the image), by default `TIMES`. Errors: `UsageError`,
    `BadImage`.
    """
    available = available_maps(predictor, layers)
    index = None if not label else class_index(label, predictor.classes)
    chosen = (
        layers
        if layers is not None or not available.attention
        else spaced_layers(len(find_attentions(predictor.model)))
    )
    at = noise_times(predictor, times)
    return [
        maps_of_image(predictor, read_pixels(item, predictor.preprocess), available, (chosen, heads, index), at)
        for item in as_list(images)
    ]


def noise_times(predictor: Predictor, times: Sequence[float]) -> tuple[float, ...]:
    """The times of the maps of a denoiser; none for other models. Errors: `UsageError`."""
    if not isinstance(predictor.model, Denoiser):
        if times:
            raise UsageError(f"{predictor.recipe.model.name} is not a denoiser and takes no times", "leave --times out")
        return ()
    for time in times:
        if not 0 <= time <= 1:
            raise UsageError(f"a time cannot be {time:g}", "use numbers from 0 (noise) to 1 (the image)")
    return tuple(times) or TIMES


def class_index(label: str, classes: Sequence[str]) -> int:
    return list(classes).index(choose(label, classes, "class"))


def spaced_layers(count: int) -> list[int]:
    """A few layers of so many, evenly spaced, the first and the last among them."""
    return sorted(set(np.linspace(0, count - 1, min(LAYERS, count)).round().astype(int).tolist()))


def maps_of_image(
    predictor: Predictor,
    image: np.ndarray,
    available: AvailableMaps,
    request: tuple[Layers, Heads, int | None],
    times: Sequence[float] = (),
) -> ImageMaps:
    """The maps of one image. request: layers, heads, class. times: of a denoiser."""
    (layers, heads, label), net, pre = request, predictor.model, whole_image(predictor.preprocess)
    maps = list[HeatMap]()
    for time in times:
        batch = add_noise(predictor, prepare_images(predictor, [image]), time, label)
        layer_attentions = attention(net, batch, layers, heads)
        maps += [m._replace(name=f"{time:g}-{m.name}") for layer in layer_attentions for m in layer_maps(layer, heads)]
    if available.attention and not times:
        batch = prepare_images(predictor, [image])
        maps += [m for layer in attention(net, batch, layers, heads) for m in layer_maps(layer, heads)]
    kinds = ("rollout", "relevance") if available.rollout else ("gradient-cam",) if available.cam else ()
    maps += [heat_map(predictor, image, kind, label) for kind in kinds]
    return ImageMaps(image, predicted_label(predictor, image), tuple(maps), pre)


def heat_map(predictor: Predictor, image: np.ndarray, kind: str, label: int | None = None) -> HeatMap:
    """The map of one image by "rollout", "relevance" or "gradient-cam" of a class, by default the likeliest."""
    net, batch = predictor.model, prepare_images(predictor, [image])
    if kind == "rollout":
        values = rollout(net, batch)
    else:
        values = (relevance if kind == "relevance" else gradient_cam)(net, batch, label)
    return HeatMap(kind, values[0], compute_extent(net, predictor.preprocess.size, (values.shape[1], values.shape[2])))


def layer_maps(layer: LayerAttention, heads: Heads) -> Iterator[HeatMap]:
    """The attention of each head of a layer: from the class token where there is one, else from the mean query."""
    if not layer.keys.maps:
        return
    lead = layer.queries.leading
    maps = layer.attention_from(0) if lead and bool(summary_row(layer)[0, 0, :lead].any()) else layer.attention_to()
    names = (
        [heads] if isinstance(heads, str) else [f"head-{h}" for h in (range(maps.shape[1]) if heads is None else heads)]
    )
    for name, values in zip(names, maps[0], strict=True):
        yield HeatMap(f"{layer.name.removeprefix('backbone.')}-{name}", values, layer.keys.maps[0].extent)


def add_noise(predictor: Predictor, images: ModelInputs, time: float, label: int | None) -> ModelInputs:
    """Inputs of a denoiser: images with noise of `SEED`, the time, and a class, by default none."""
    task, model = predictor.task, predictor.model
    assert isinstance(images, Tensor)
    assert isinstance(task, GenerativeTask)
    assert isinstance(model, Denoiser)
    null = model.null
    draw = NoiseStreams(SEED, range(len(images)), tuple(images.shape[1:]), images.device)
    if predictor.recipe.input.vae is not None:
        raise UsageError(
            f"{predictor.recipe.model.name} takes latents, of which no maps are shown", "use a denoiser of pixels"
        )
    z, t = task.add_noise_at(images, time, draw())
    return z, t, torch.full((len(images),), label if null and label is not None else null, device=images.device)


def check_same_inputs(predictor: Predictor, other: Predictor) -> Predictor:
    """The other model, if it has the same preprocessing. Errors: `UsageError`."""
    one, two = predictor.preprocess, other.preprocess
    if one != two:
        different = [f.name for f in dataclasses.fields(one) if getattr(one, f.name) != getattr(two, f.name)]
        raise UsageError(
            f"layers are compared on the same images, and these models differ in preprocessing: {', '.join(different)}",
            "compare models of one data set and size",
        )
    return other


def predicted_label(predictor: Predictor, image: np.ndarray) -> str:
    if not predictor.task.is_classifier:
        return ""
    labels, rows = predictor.predict([image])
    return labels[0] if predictor.task.multi_label else f"{labels[0]} {float(rows[0].max()):.1%}"


def whole_image(pre: Preprocess) -> Preprocess:
    """Preprocessing of an image as one canvas, for a model that takes windows."""
    return dataclasses.replace(pre, resize_mode="fit") if pre.resize_mode in ("slide", "tile") else pre


def prepare_images(predictor: Predictor, images: Sequence[np.ndarray]) -> ModelInputs:
    """Images uint8 [H W C] as the model takes them: normalised, and for boxes with their sizes on the canvas."""
    pre, device = whole_image(predictor.preprocess), next(predictor.model.parameters()).device
    batch = pre.batch(torch.stack([pre.image(read_pixels(image, pre)) for image in images]).to(device))
    if not (isinstance(predictor.model, HeadedModel) and predictor.model.takes_sizes):
        return batch
    return batch, torch.tensor([pre.scaled_size(*image.shape[:2]) for image in images], device=device)


def spaced_indices(split: Split, count: int) -> list[int]:
    """Indices of so many images, evenly spaced over a split. Errors: `UsageError` where there are none."""
    if not len(split) or count < 1:
        raise UsageError("there are no images to use", "--count 64, and --split names a part of the data")
    return [int(i) for i in evenly_spaced(len(split), count)]


def read_images(split: Split, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    """The images that can be read. Errors: `BadImage` where none can."""
    failed: BadImage | None = None
    count = 0
    for index in indices:
        try:
            pixels = split.read(index)
        except BadImage as error:
            failed = error
            continue
        count += 1
        yield index, pixels
    if failed is not None and not count:
        raise failed


def read_batches(predictor: Predictor, split: Split, count: int) -> Iterator[ModelInputs]:
    """So many images of a split in batches; a last batch of fewer than four is merged with the one before."""
    pending: list[np.ndarray] = []
    for _, image in read_images(split, spaced_indices(split, count)):
        if len(pending) == BATCH + 3:
            yield prepare_images(predictor, pending[:BATCH])
            pending = pending[BATCH:]
        pending.append(image)
    if pending:
        yield prepare_images(predictor, pending)


def loss_on_batch(predictor: Predictor, split: Split, count: int) -> Any:
    """The loss of the labels on one batch of a split, as a function of the model. Errors: `UsageError` for tasks
    without such labels."""
    if predictor.task.is_dense:
        raise UsageError(
            f"gradients are of the loss of labels, and this model predicts {predictor.task.output}",
            "leave --gradients out",
        )
    if not predictor.task.learns_from("classes"):
        raise UsageError(
            f"gradients are of the loss of labels, and this model learns from {predictor.task.annotations}",
            "leave --gradients out",
        )
    if predictor.task.transform(predictor.recipe, predictor.preprocess).views != 1:
        raise UsageError(
            "gradients are of the loss of single images, and this task learns from several crops of each",
            "leave --gradients out",
        )
    indices, images = zip(*read_images(split, spaced_indices(split, count)), strict=True)
    batch, labels = prepare_images(predictor, images), torch.from_numpy(np.asarray(split.labels[list(indices)]))
    assert isinstance(batch, Tensor)
    return lambda net: predictor.task.loss(net, Batch(batch, labels.to(batch.device)))
