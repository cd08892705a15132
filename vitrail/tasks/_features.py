"""Tasks that learn the features of a backbone without labels: what they share, and how they are evaluated as they
train, by k-NN and a linear probe on whatever labels there are, and by how varied the features are.

Both use the held-out images alone: every second image of a class is labelled, the others are asked. So an evaluation
costs one pass over a part of the data, as that of any task; `vitrail probe RUN` measures as papers do, with the
training images as the labelled ones.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from vitrail.analysis import probe
from vitrail.contracts import Evaluator, ImageReader, Metric, Output, Predictions, Task
from vitrail.data.dataset import AnnotationKind
from vitrail.data.subset import evenly_spaced
from vitrail.metrics.features import collapse_note, spectrum, variety

MOST = 4096  # images for k-NN, the probe and the variety of features
FEW = 16  # images: the features of fewer have a low rank however varied they are
NEIGHBOURS = 20  # as in DINO


class FeatureTask(Task):
    """A task whose model has the features as its answer to an image. `width`: numbers in a row of them, known once the
    model is assembled. `held_out_terms`: the names of the numbers in a row of `held_out`."""

    annotations: AnnotationKind = "none"
    output: Output = "features"
    metric = Metric("effective_rank")
    selects_best = False
    width: int = 0
    held_out_terms: tuple[str, ...] = ()

    @abstractmethod
    def held_out(self, model: nn.Module, images: Tensor, ids: np.ndarray) -> Tensor:
        """Numbers of every held-out image, such as its loss, [B T] by `held_out_terms`: any randomness is a function of
        the image's id alone. [B 0] of a task that has none."""

    @final
    def output_names(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        """None: features have no names."""
        return ()

    @final
    def targets(self, labels: Tensor) -> Tensor:
        """None: [B 0]."""
        return torch.zeros(len(labels), 0, device=labels.device)

    @final
    def count_targets(self, labels: Tensor, batch: int, all_reduce_sum: Callable[[Tensor], Tensor]) -> Tensor:
        return labels

    @final
    def fit_class_weights(self, labels: Tensor) -> None:
        """It learns from no label."""

    @final
    def predict(self, model: Any, images: Tensor) -> Tensor:
        """The features, which are evaluated and are what the finished model answers: the backbone's summaries side by
        side, [B D]."""
        return torch.cat(model.backbone(images).summaries, dim=1).float()

    @final
    def evaluator(self) -> "FeatureEvaluator":
        return FeatureEvaluator(self)


class DrawingTask(ABC):
    """A task that can draw what its model makes of images."""

    @abstractmethod
    def draw(self, model: nn.Module, images: Tensor, ids: np.ndarray) -> dict[str, Tensor]:
        """Preprocessed images [B C H W] and their numbers [B] -> images of the same kind by their titles, in order."""


class FeatureEvaluator(Evaluator):
    """Evaluates a `FeatureTask`: the task's own numbers (`held_out`), the variety of the features, and with labels the
    accuracy of k-NN and of a linear probe."""

    def __init__(self, task: FeatureTask):
        self.task = task

    def predictions(self, images: ImageReader) -> Predictions:
        return images.by_batch(self.row, self.task.width + len(self.task.held_out_terms))

    def row(self, model: nn.Module, images: Tensor, labels: Tensor, ids: np.ndarray) -> Tensor:
        """The features, then the task's own numbers, [B D+T]."""
        return torch.cat([self.task.predict(model, images), self.task.held_out(model, images, ids).float()], dim=1)

    def metrics(self, predictions: Predictions) -> Mapping[str, Any]:
        """The means of the task's numbers, those of `variety`, and with labels of two classes or more "knn_top1" and
        "probe_top1", or of several labels an image "probe_mAP". "spectrum": see there. "notes": on a collapse."""
        rows, names = predictions.rows, self.task.held_out_terms
        own = rows[:, self.task.width :].double().mean(0).tolist()  # an exported model has none
        some = torch.from_numpy(evenly_spaced(len(rows), MOST))
        features = rows[some, : self.task.width]
        shares = spectrum(features)
        varied = variety(features, shares)
        note = collapse_note(varied) if len(features) >= FEW else ""
        return {
            **dict(zip(names, own, strict=False)),
            **accuracies(features, predictions.targets[some]),
            **varied,
            "count": len(rows),
            "per_class": {},
            "spectrum": shares.tolist(),
            "notes": [note] if note else [],
        }

    def arrays(self, predictions: Predictions) -> dict[str, np.ndarray]:
        """The task's own numbers by image, [N T]."""
        return {"held_out": predictions.rows[:, self.task.width :].numpy()}

    def files(self, predictions: Predictions, images: ImageReader) -> Mapping[str, bytes]:
        return {}


def accuracies(features: Tensor, labels: Tensor) -> dict[str, float]:
    """The accuracy of features [N D] by labels, class indices [N] or several [N K]: k-NN and a linear probe that learn
    from every second image of a class and are asked about the others. Empty where the labels tell nothing apart."""
    several = labels.ndim == 2
    order = torch.arange(len(labels)) if several else labels.argsort(stable=True)
    known, asked = order[::2].sort().values, order[1::2].sort().values
    if not len(asked) or len(labels[known].unique(dim=0)) < 2:
        return {}
    classes = labels.shape[1] if several else int(labels.max()) + 1
    (x, y), (queries, annotation) = ((features[part].double(), labels[part]) for part in (known, asked))
    fitted = probe.fit_probe(x, y, classes, 1 / len(known), is_rough=True)
    linear = probe.score(fitted.probabilities(queries, several), annotation)
    if several:
        return {"probe_mAP": linear}
    votes = probe.knn_probabilities(x, y, queries, classes, (NEIGHBOURS,))[NEIGHBOURS]
    return {"knn_top1": probe.score(votes, annotation), "probe_top1": linear}
