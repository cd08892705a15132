"""Evaluates an exported model: its file predicts, and the evaluator of its task counts."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitrail.contracts import Predictions
from vitrail.data.dataset import Split
from vitrail.errors import DataError
from vitrail.evaluation.evaluate import Evaluation
from vitrail.evaluation.reader import TaskReader
from vitrail.inference.image_predictor import ImagePredictor
from vitrail.inference.windows import GROUP


class EngineReader(TaskReader):
    """The images of a split, predicted by whatever runs a predictor; by one process."""

    def __init__(self, predictor: ImagePredictor, split: Split):
        self.predictor, self.split, self.task = predictor, split, predictor.task

    def by_batch(self, row: Callable[..., Tensor], width: int) -> Predictions:
        """The graph of an exported model ends where `row` does: its outputs are the rows."""
        rows = [torch.zeros(0, width)]
        rows += [torch.stack(list(self.predictor.predict_pixels(pixels))) for _, pixels in self.groups()]
        return Predictions(torch.cat(rows), torch.from_numpy(self.split.labels))

    def by_image(self, row: Callable[[Any, Any], Tensor], none: Tensor, keep_annotations: bool) -> Predictions:
        annotation, rows, kept = self.split.annotation, [none], []
        assert annotation is not None
        for indices, pixels in self.groups():
            for index, prediction in zip(indices, self.predictor.predict_pixels(pixels), strict=True):
                kept.append(annotation(index))
                rows.append(row(prediction, kept[-1])[None])
                kept = kept if keep_annotations else []
        return Predictions(torch.cat(rows), torch.zeros(0), kept)

    def predict(self, index: int) -> np.ndarray:
        return np.asarray(self.predictor.predict_pixels([self.split.read(index)])[0])

    def groups(self) -> Iterator[tuple[range, list[np.ndarray]]]:
        """Indices and pixels of some images at a time."""
        for start in range(0, len(self.split), GROUP):
            indices = range(start, min(start + GROUP, len(self.split)))
            yield indices, [self.split.read(i) for i in indices]


def evaluate_engine(predictor: ImagePredictor, split: Split) -> Evaluation:
    """Metrics of a split, and the prediction of every image in it. Errors: `DataError` for an empty split."""
    if not len(split):
        raise DataError("there is nothing to evaluate: this part of the data is empty", "--split names another part")
    images, evaluator = EngineReader(predictor, split), predictor.task.evaluator()
    predictions = evaluator.predictions(images)
    return Evaluation(evaluator.metrics(predictions), predictions, images)
