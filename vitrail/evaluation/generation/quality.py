"""How good the images of a denoiser are, by the features of a classifier: realistic, diverse, and of the requested
class."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vitrail.data.dataset import Dataset, Split
from vitrail.data.splits import evaluation_part
from vitrail.data.subset import evenly_spaced
from vitrail.engine.processes.world import World
from vitrail.errors import UsageError
from vitrail.evaluation.evaluate import evaluate
from vitrail.evaluation.features import compute_features, image_features, part_features
from vitrail.evaluation.generation import copying
from vitrail.evaluation.generation.copying import CopyingResult
from vitrail.inference.predictor import Predictor
from vitrail.inference.sample import Progress, SampleRequest, default_sampling, resolve_classes, sample_images
from vitrail.metrics import generation
from vitrail.tasks.diffusion import Sampling


@dataclass(frozen=True)
class QualityReport:
    """real, made: the number of real and generated images; width: features of an image; asked: the accuracy of the
    classifier on generated images, None where its classes differ; asked_of_real: its accuracy on real images;
    metrics_of_real: the metrics of as many real images of another split, the best that a denoiser can reach; None where
    there are too few."""

    part: str
    real: int
    made: int
    width: int
    metrics: dict[str, float]
    metrics_of_real: dict[str, float] | None
    asked: float | None
    asked_of_real: float | None
    notes: tuple[str, ...]


class GeneratedImages(NamedTuple):
    """Images uint8 [N H W C] and their features [N D]."""

    images: np.ndarray
    features: Tensor


class RealImages:
    """The features of the real images of a split, for comparison with generated ones."""

    def __init__(
        self,
        maker: Predictor,
        classifier: Predictor,
        dataset: Dataset,
        part: str,
        count: int,
        cache_dir: Path | None,
        world: World,
    ):
        """count: images to generate each time. cache_dir: the folder for features of real images. Errors:
        `UsageError`."""
        check_models(maker, classifier, count, len(dataset.splits[part]))
        self.classifier, self.part, self.count, self.world = classifier, part, count, world
        self.features, notes = part_features(classifier, dataset, part, cache_dir, world)
        self.same = classifier.classes == maker.classes and maker.model.null != 0 and not classifier.task.multi_label
        self.metrics_of_real = self.compare_other_split(dataset)
        self.accuracy_on_real = measure_accuracy(classifier, dataset.splits[part], world) if self.same else None
        if not self.same:
            notes = [*notes, "the classifier has other classes, so its accuracy on generated images is not measured"]
        self.notes = tuple(notes)
        self.made: GeneratedImages | None = None  # those of the last comparison

    def compare_other_split(self, dataset: Dataset) -> dict[str, float] | None:
        """The metrics of `count` real images of another split, evenly spaced."""
        other = "train" if self.part != "train" else evaluation_part(dataset, final=True)
        split = dataset.splits[other]
        if other == self.part or len(split) < self.count:
            return None
        some = split.select(np.arange(self.count) * len(split) // self.count)
        return generation.compare_features(
            self.features, compute_features(self.classifier.model, some, self.classifier.preprocess, self.world)
        )

    def compare(self, maker: Predictor, how: Sampling | None = None, progress: Progress | None = None) -> QualityReport:
        """Generates images of all classes, equally many, and compares them."""
        labels, classifier, world = resolve_classes(maker.bundle, []), self.classifier, self.world
        request = SampleRequest(tuple(labels[i % len(labels)] for i in range(self.count)), tuple(range(self.count)))
        images = sample_images(maker.bundle, request, default_sampling(maker.bundle, how), progress=progress)
        split, features = image_features(classifier, images, request.labels, world)
        accuracy = measure_accuracy(classifier, split, world) if self.same else None
        metrics = generation.compare_features(self.features, features)
        self.made = GeneratedImages(images, features)
        return QualityReport(
            self.part,
            len(self.features),
            self.count,
            features.shape[1],
            metrics,
            self.metrics_of_real,
            accuracy,
            self.accuracy_on_real,
            self.notes,
        )


def find_nearest(
    maker: Predictor,
    classifier: Predictor,
    dataset: Dataset,
    made: GeneratedImages,
    cache_dir: Path | None,
    world: World,
) -> CopyingResult | None:
    """The training images nearest to generated ones by such features; None where nothing is held out."""
    if (part := evaluation_part(dataset, final=True)) == "train":
        return None
    indices = evenly_spaced(len(dataset.splits["train"]), copying.MOST)
    train = replace(dataset, splits={**dataset.splits, "train": dataset.splits["train"].select(indices)})
    of_train, held_out = (
        part_features(classifier, some, name, cache_dir, world)[0] for some, name in ((train, "train"), (dataset, part))
    )
    held_out = held_out[torch.from_numpy(evenly_spaced(len(held_out), copying.HELD_OUT))]
    features = (made.features, of_train, held_out)
    return copying.measure_by_features(
        str(classifier.source), made.images, features, indices, dataset, part, maker.preprocess
    )


def check_models(maker: Predictor, classifier: Predictor, count: int, real: int) -> None:
    """Errors: `UsageError` for models of other kinds, and for too few images."""
    if not maker.task.is_generative:
        raise UsageError(f"{maker.recipe.model.name} is not a generative model", "leave --features out")
    if not classifier.task.is_classifier:
        raise UsageError(f"{classifier.source} is no classifier", "--features names a run of a classifier")
    if min(count, real) < generation.min_count():
        raise UsageError(
            f"{count} generated and {real} real images: there must be {generation.min_count()} of each",
            "a larger --count or split",
        )


def measure_accuracy(classifier: Predictor, split: Split, world: World) -> float:
    """The accuracy of a classifier."""
    return float(evaluate(classifier.bundle, split, world, workers=0).metrics["top1"])
