"""Evaluates images with texts: retrieval both ways where images have captions."""

import io
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vitrail.contracts import Evaluator, ImageReader, Predictions
from vitrail.data.texts.captions import captions_of
from vitrail.errors import UsageError
from vitrail.metrics.retrieval import image_ranks, retrieval_metrics


class TextReader(ImageReader):
    """A reader that knows texts too."""

    @abstractmethod
    def by_text(self, texts: Sequence[str]) -> Tensor:
        """The embeddings [T E] of texts, each computed by one of the processes; on every process."""


class RetrievalEvaluator(Evaluator):
    """Recall of captions by images, and of images by captions, among all of a part."""

    def __init__(self, predict: Callable[[nn.Module, Tensor], Tensor], width: int):
        """width: of the embeddings."""
        self.predict, self.width = predict, width

    def predictions(self, images: ImageReader) -> Predictions:
        """A row is the embedding of an image, its annotation those of its captions [T E]. Errors: `UsageError` for an
        exported model."""
        if not isinstance(images, TextReader):
            raise UsageError("an exported file has no text tower, which retrieval needs", "vitrail eval RUN")
        rows = images.by_batch(self.row, self.width)
        captions = [captions_of(images.split, i) for i in range(len(images.split))]
        texts = list(dict.fromkeys(text for own in captions for text in own))
        embedded, places = images.by_text(texts), {text: i for i, text in enumerate(texts)}
        return Predictions(rows.rows, rows.targets, [embedded[[places[text] for text in own]] for own in captions])

    def row(self, model: nn.Module, images: Tensor, labels: Tensor, ids: np.ndarray) -> Tensor:
        return self.predict(model, images)

    def metrics(self, predictions: Predictions) -> Mapping[str, Any]:
        texts, owners = join_texts(predictions)
        recalls = retrieval_metrics(predictions.rows, texts, owners)
        return {**recalls, "count": len(predictions.rows), "texts": len(texts), "per_class": {}}

    def arrays(self, predictions: Predictions) -> dict[str, np.ndarray]:
        """ "embeddings" [N E], and "rank" [N]: that of an image's best caption among all captions of the part, from
        1."""
        return {
            "embeddings": predictions.rows.numpy(),
            "rank": image_ranks(predictions.rows, *join_texts(predictions)).numpy(),
        }

    def files(self, predictions: Predictions, images: ImageReader) -> Mapping[str, bytes]:
        """captions.npz: "embeddings" [T E] of all captions, and "images" [T], whose they are."""
        texts, owners = join_texts(predictions)
        packed = io.BytesIO()
        np.savez_compressed(packed, embeddings=texts.numpy(), images=owners.numpy())
        return {"captions.npz": packed.getvalue()}


def join_texts(predictions: Predictions) -> tuple[Tensor, Tensor]:
    """The embeddings of all captions [T E], and the image of each [T]."""
    counts = torch.tensor([len(own) for own in predictions.annotations], dtype=torch.int64)
    return torch.cat(list(predictions.annotations)), torch.arange(len(counts)).repeat_interleave(counts)
