"""Evaluates whatever predicts: also an engine on an exported file, whose model is not in torch."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vitrail.contracts import ImageReader, Predictions
from vitrail.data.dataset import Split
from vitrail.inference.image_predictor import ImagePredictor

BATCH = 16  # images at a time
LEAST = 1e-30  # probability, whose logarithm is a number


class PredictorReader(ImageReader):
    """The images of a split, predicted by an `ImagePredictor` in one process."""

    def __init__(self, predictor: ImagePredictor, split: Split):
        self.predictor, self.split = predictor, split

    def by_batch(self, row: Callable[[nn.Module, Tensor, Tensor, np.ndarray], Tensor], width: int) -> Predictions:
        """The model that `row` gets returns its input: logits with the predictor's probabilities."""
        labels, rows = torch.from_numpy(self.split.labels), [torch.zeros(0, width)]
        for indices in self.groups():
            p = torch.stack(list(self.predict_at(indices))).double()
            logits = torch.logit(p, LEAST) if self.predictor.task.multi_label else p.clamp_min(LEAST).log()
            rows.append(row(nn.Identity(), logits, labels[indices], np.array(indices)).float())
        return Predictions(torch.cat(rows), labels)

    def by_image(self, row: Callable[[Any, Any], Tensor], none: Tensor, keep_annotations: bool) -> Predictions:
        annotation = self.split.annotation
        assert annotation is not None
        rows, kept = [none], []
        for indices in self.groups():
            annotations = [annotation(i) for i in indices]
            pairs = zip(self.predict_at(indices), annotations, strict=True)
            rows.append(torch.stack([row(prediction, true) for prediction, true in pairs]))
            kept += annotations if keep_annotations else []
        return Predictions(torch.cat(rows), torch.zeros(0), kept)

    def predict(self, index: int) -> np.ndarray:
        prediction: np.ndarray = self.predict_at([index])[0]
        return prediction

    def predict_at(self, indices: list[int]) -> Any:
        return self.predictor.predict_pixels([self.split.read(i) for i in indices])

    def groups(self) -> Iterator[list[int]]:
        count = len(self.split)
        yield from (list(range(start, min(start + BATCH, count))) for start in range(0, count, BATCH))
