"""Evaluates boxes in the images' own pixels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitrail.contracts import Evaluator, ImageReader, Predictions
from vitrail.data.dataset import Boxes
from vitrail.metrics.detection import average_precision, f1

MOST = 500  # boxes of an image that are kept, the best
WIDTH = 6  # numbers of a box: its edges, score, label
NO_BOX = -1.0  # padding, where an image has fewer


class BoxEvaluator(Evaluator):
    """Evaluates boxes in the images' own pixels: a row has the best boxes of an image."""

    def __init__(self, classes: int):
        self.classes = classes

    def predictions(self, images: ImageReader) -> Predictions:
        return images.by_image(self.row, torch.zeros(0, MOST * WIDTH), keep_annotations=True)

    def row(self, prediction: Any, annotation: Boxes) -> Tensor:
        """The best `MOST` boxes of an image, [n 6] as from `decode`, flattened: [W]."""
        boxes = torch.as_tensor(prediction, dtype=torch.float32).reshape(-1, WIDTH)
        boxes = boxes[boxes[:, 4].argsort(descending=True, stable=True)[:MOST]]
        return torch.cat([boxes, boxes.new_full((MOST - len(boxes), WIDTH), NO_BOX)]).flatten()

    def metrics(self, predictions: Predictions) -> Mapping[str, Any]:
        return average_precision(list(map(boxes_of_row, predictions.rows)), predictions.annotations, self.classes)

    def arrays(self, predictions: Predictions) -> dict[str, np.ndarray]:
        scores = self.scores(predictions.rows, predictions.annotations)
        return {"rows": predictions.rows.numpy(), "scores": scores.numpy()}

    def files(self, predictions: Predictions, images: ImageReader) -> Mapping[str, bytes]:
        """None: the rows have the boxes."""
        return {}

    def scores(self, rows: Tensor, annotations: Sequence[Boxes]) -> Tensor:
        """F1 of the boxes of each image, [N]."""
        return torch.tensor(
            [f1(boxes_of_row(row).numpy(), annotation) for row, annotation in zip(rows, annotations, strict=True)]
        )


def boxes_of_row(row: Tensor) -> Tensor:
    """The boxes of a row of `BoxEvaluator.row`: [n 6]."""
    boxes = row.reshape(-1, WIDTH)
    return boxes[boxes[:, 4] >= 0]
