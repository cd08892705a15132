"""How good the images of a denoiser are, by the features of a classifier: near to real ones, various, and of the class asked for."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vitrail.data.dataset import Dataset, Split
from vitrail.data.splits import evaluation_part
from vitrail.data.subset import evenly_spaced
from vitrail.engine.world import World
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
    """real, made: how many images there were of each; width: features of one; asked: the share of made images that the classifier
    takes for the class they were made of, None where it knows others; asked_of_real: the same share of real images; metrics_of_real:
    what as many real images of another part have in place of made ones, which no denoiser can be asked to be better than; None where
    there are not that many."""

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
    """The real images of a part, looked at once: what made ones are compared with."""

    def __init__(
        self,
        maker: Predictor,
        classifier: Predictor,
        dataset: Dataset,
        part: str,
        count: int,
        kept: Path | None,
        world: World,
    ):
        """count: how many images will be made each time. kept: the folder that features of real images are kept in, by a hash of
        all they depend on. Errors: `UsageError`."""
        fits(maker, classifier, count, len(dataset.splits[part]))
        self.classifier, self.part, self.count, self.world = classifier, part, count, world
        self.features, notes = part_features(classifier, dataset, part, kept, world)
        self.same = classifier.classes == maker.classes and maker.model.null != 0 and not classifier.task.multi_label
        self.floor = self.others(dataset)
        self.known = measure_accuracy(classifier, dataset.splits[part], world) if self.same else None
        if not self.same:
            notes = [*notes, "the classifier knows other classes, so it is not asked which class an image is of"]
        self.notes = tuple(notes)
        self.made: GeneratedImages | None = None  # what was judged last

    def others(self, dataset: Dataset) -> dict[str, float] | None:
        """The metrics of `count` real images of another part, spread over all of it."""
        other = "train" if self.part != "train" else evaluation_part(dataset, final=True)
        split = dataset.splits[other]
        if other == self.part or len(split) < self.count:
            return None
        some = split.select(np.arange(self.count) * len(split) // self.count)
        return generation.compare_features(
            self.features, compute_features(self.classifier.model, some, self.classifier.preprocess, self.world)
        )

    def compare(self, maker: Predictor, how: Sampling | None = None, progress: Progress | None = None) -> QualityReport:
        """Makes images of all classes, equally many, and compares them."""
        labels, judge, world = resolve_classes(maker.bundle, []), self.classifier, self.world
        request = SampleRequest(tuple(labels[i % len(labels)] for i in range(self.count)), tuple(range(self.count)))
        made = sample_images(maker.bundle, request, default_sampling(maker.bundle, how), progress=progress)
        split, features = image_features(judge, made, request.labels, world)
        said = measure_accuracy(judge, split, world) if self.same else None
        metrics = generation.compare_features(self.features, features)
        self.made = GeneratedImages(made, features)
        return QualityReport(
            self.part,
            len(self.features),
            self.count,
            features.shape[1],
            metrics,
            self.floor,
            said,
            self.known,
            self.notes,
        )


def find_nearest(
    maker: Predictor, classifier: Predictor, dataset: Dataset, made: GeneratedImages, kept: Path | None, world: World
) -> CopyingResult | None:
    """The training images nearest to made ones by such features; None where nothing is held out."""
    if (part := evaluation_part(dataset, final=True)) == "train":
        return None
    places = evenly_spaced(len(dataset.splits["train"]), copying.MOST)
    train = replace(dataset, splits={**dataset.splits, "train": dataset.splits["train"].select(places)})
    learned, held = (
        part_features(classifier, some, name, kept, world)[0] for some, name in ((train, "train"), (dataset, part))
    )
    held = held[torch.from_numpy(evenly_spaced(len(held), copying.HELD_OUT))]
    features = (made.features, learned, held)
    return copying.measure_by_features(
        str(classifier.source), made.images, features, places, dataset, part, maker.preprocess
    )


def fits(maker: Predictor, classifier: Predictor, count: int, real: int) -> None:
    """Errors: `UsageError` for models that are not of these kinds, and too few images."""
    if not maker.task.is_generative:
        raise UsageError(
            f"{maker.recipe.model.name} makes no images that could be judged by features", "leave --features out"
        )
    if not classifier.task.is_classifier:
        raise UsageError(f"{classifier.source} is no classifier", "--features names a run that tells classes")
    if min(count, real) < generation.min_count():
        raise UsageError(
            f"{count} made and {real} real images: there must be {generation.min_count()} of each",
            "a larger --count or part",
        )


def measure_accuracy(classifier: Predictor, split: Split, world: World) -> float:
    """The share of images that a classifier is right about."""
    return float(evaluate(classifier.bundle, split, world, workers=0).metrics["top1"])
