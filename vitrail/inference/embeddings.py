"""Embeddings of images and of texts, of unit length, by whatever model there is; classes that texts name."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.contracts import Backbone, HeadedModel
from vitrail.data.annotations.captions import clean_caption
from vitrail.data.dataset import Dataset
from vitrail.errors import UsageError
from vitrail.heads.image_text import ImageTextModel, TextTask
from vitrail.heads.text_classifier import TextClassifier
from vitrail.inference.image_predictor import ImagePredictor
from vitrail.inference.labels import label_bundle, text_model_of
from vitrail.inference.load_any import load_any
from vitrail.inference.predictor import Predictor
from vitrail.inference.stream import BATCH, read_each, sources_of, take_group
from vitrail.layers.merge import Merge
from vitrail.layers.modes import evaluation_mode
from vitrail.validation import Positive, validate


def embed(model: nn.Module, images: Tensor) -> Tensor:
    """Preprocessed images [B C H W] -> [B E], of unit length: what a text tower's are compared with, or else the
    backbone's features. Errors: `UsageError` for a model that has none."""
    if isinstance(model, ImageTextModel):
        embedded: Tensor = model(images)
        return embedded.float()
    if isinstance(model, TextClassifier):
        return embed(model.model, images)
    backbone = model.backbone if isinstance(model, HeadedModel) else model
    if not isinstance(backbone, Backbone):
        raise UsageError(f"a {type(model).__name__} has no features of an image", "a run of another task has")
    return F.normalize(torch.cat(backbone(images).summaries, dim=1).float(), dim=1)


def in_torch(predictor: ImagePredictor) -> Predictor:
    """Errors: `UsageError` for an exported file."""
    if not isinstance(predictor, Predictor):
        what = f"{predictor.source} is an exported file, without a text tower and without weights"
        raise UsageError(what, "give the run that it was made of, or the model folder")
    return predictor


def text_model(predictor: ImagePredictor) -> ImageTextModel:
    """The model of a predictor, with its text tower. Errors: `UsageError` where it has none."""
    return text_model_of(in_torch(predictor).bundle, str(predictor.source))


def reads_texts(predictor: ImagePredictor) -> bool:
    """Whether classes can be named by texts, and are not yet."""
    return isinstance(predictor, Predictor) and isinstance(predictor.model, ImageTextModel)


@torch.no_grad()
def embed_images(predictor: ImagePredictor, images: Any, batch: int = BATCH) -> Tensor:
    """Embeddings [N E], fp32 on the CPU, of images as `predict` takes them, `batch` at a time. Errors: `BadImage`,
    `DataError`, `UsageError`."""
    own, batch = in_torch(predictor), validate(batch, Positive, "batch")
    device, pre = next(own.model.parameters()).device, own.preprocess
    source, rows = read_each(sources_of(images), pre, every=1), list[Tensor]()
    with evaluation_mode(own.model), own.precision.autocast():
        while group := take_group(source, batch):
            pixels = torch.stack([pre.image(one.checked()) for one in group])
            rows.append(embed(own.model, pre.batch(pixels.to(device))).float().cpu())
    if not rows:
        raise UsageError("no images were given", "give one, or many")
    return torch.cat(rows)


def embed_texts(predictor: ImagePredictor, texts: Sequence[str]) -> Tensor:
    """Embeddings [N E], fp32 on the CPU. Errors: `UsageError` for a model without a text tower, and for empty texts."""
    model, clean = text_model(predictor), [clean_caption(text) for text in as_texts(texts)]
    if not clean or not all(clean):
        raise UsageError("a text is empty" if clean else "no texts were given", "give at least one word")
    return model.embed_texts(clean)


def with_labels(predictor: ImagePredictor, labels: Sequence[str], templates: Sequence[str] = ()) -> Predictor:
    """The predictor of the classes that some texts name. templates: of texts for a label, which replaces {}; none: it
    is one by itself. Errors: `UsageError` for a model without a text tower, fewer than two labels, and those that are
    empty or come twice."""
    own = in_torch(predictor)
    made = label_bundle(own.bundle, as_texts(labels), templates, str(own.source))
    return dataclasses.replace(own, model=made.model, classes=made.classes, task=made.task)


def name_classes(predictor: ImagePredictor, dataset: Dataset) -> ImagePredictor:
    """Of a model of images with texts, on data with classes and no captions, the zero-shot classifier of those classes,
    by the prompts of its task; any other model as it is. Errors: `UsageError` for data with neither, and for one
    class."""
    task = predictor.task
    if not isinstance(task, TextTask) or task.learns_from(dataset.kind) or dataset.is_annotated:
        return predictor
    if len(dataset.classes) < 2:
        has = f"one class only, {dataset.classes[0][:80]!r}" if dataset.classes else "neither captions nor classes"
        what = f"a model of images and texts is evaluated on captions or classes, and this data has {has}"
        raise UsageError(what, "put a .txt with the caption beside each image, or images into one folder a class")
    return with_labels(predictor, dataset.classes, task.config.prompts)


def load_labelled(
    source: str | Path,
    labels: Sequence[str],
    engine: str = "",
    device: str = "cpu",
    weights: Literal["best", "last"] = "best",
    vae: str = "",
    merge: Merge | None = None,
) -> ImagePredictor:
    """As `load_any`; of the classes that `labels` name, where there are any."""
    predictor = load_any(source, engine, device, weights=weights, vae=vae, merge=merge)
    return with_labels(predictor, labels) if labels else predictor


def embed_any(source: Any, images: Any, texts: str | Sequence[str] | None, device: str, batch: int) -> Tensor:
    """The embeddings of images or of texts, by a predictor or what one is loaded from. Errors: `UsageError`."""
    if (images is None) == (texts is None):
        raise UsageError("embed takes images or texts", "vitrail.embed(RUN, images), vitrail.embed(RUN, texts=[...])")
    predictor = source if isinstance(source, ImagePredictor) else load_any(source, device=device)
    if texts is None:
        return embed_images(predictor, images, batch)
    return embed_texts(predictor, as_texts(texts))


def as_texts(texts: Any) -> list[str]:
    """One text or many, as a caller hands them over. Errors: `UsageError` for what is neither."""
    given = [texts] if isinstance(texts, str) else texts
    found = list(given) if isinstance(given, Iterable) and not isinstance(given, bytes) else [given]
    if odd := [one for one in found if not isinstance(one, str)]:
        raise UsageError(f"a {type(odd[0]).__name__} is no text", 'give a text, or several: ["a cat", "a dog"]')
    return found
