"""How good the pictures of a denoiser are, by the features of a classifier: near to real ones, various, and of the class asked for."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vitrail.data.dataset import Dataset, Split
from vitrail.data.splits import held_out
from vitrail.data.subset import spaced
from vitrail.engine.world import World
from vitrail.errors import UsageError
from vitrail.evaluation.evaluate import evaluate
from vitrail.evaluation.features import computed, of_part, of_pictures
from vitrail.evaluation.generation import copying
from vitrail.evaluation.generation.copying import Copied
from vitrail.inference.predictor import Predictor
from vitrail.inference.sample import Progress, Wish, asked, pictures, usual
from vitrail.metrics import generation
from vitrail.tasks.diffusion import Sampling


@dataclass(frozen=True)
class Quality:
    """real, made: how many pictures there were of each; width: features of one; asked: the share of made pictures that the classifier
    takes for the class they were made of, None where it knows others; asked_of_real: the same share of real pictures; metrics_of_real:
    what as many real pictures of another part have in place of made ones, which no denoiser can be asked to be better than; None where
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


class Made(NamedTuple):
    """Pictures uint8 [N H W C] and their features [N D]."""

    pictures: np.ndarray
    features: Tensor


class Real:
    """The real pictures of a part, looked at once: what made ones are compared with."""

    def __init__(self, maker: Predictor, judge: Predictor, dataset: Dataset, part: str, count: int, kept: Path | None, world: World):
        """count: how many pictures will be made each time. kept: the folder that features of real pictures are kept in, by a hash of
        all they depend on. Errors: `UsageError`."""
        fits(maker, judge, count, len(dataset.splits[part]))
        self.judge, self.part, self.count, self.world = judge, part, count, world
        self.features, notes = of_part(judge, dataset, part, kept, world)
        self.same = judge.classes == maker.classes and maker.model.null != 0 and not judge.task.multi_label
        self.floor = self.others(dataset)
        self.known = right(judge, dataset.splits[part], world) if self.same else None
        if not self.same:
            notes = [*notes, "the classifier knows other classes, so it is not asked which class a picture is of"]
        self.notes = tuple(notes)
        self.made: Made | None = None  # what was judged last

    def others(self, dataset: Dataset) -> dict[str, float] | None:
        """The metrics of `count` real pictures of another part, spread over all of it."""
        other = "train" if self.part != "train" else held_out(dataset, final=True)
        split = dataset.splits[other]
        if other == self.part or len(split) < self.count:
            return None
        some = split.take(np.arange(self.count) * len(split) // self.count)
        return generation.judged(self.features, computed(self.judge.model, some, self.judge.preprocess, self.world))

    def judged(self, maker: Predictor, how: Sampling | None = None, progress: Progress | None = None) -> Quality:
        """Makes pictures of all classes, equally many, and compares them."""
        labels, judge, world = asked(maker.described, []), self.judge, self.world
        wish = Wish(tuple(labels[i % len(labels)] for i in range(self.count)), tuple(range(self.count)))
        made = pictures(maker.described, wish, usual(maker.described, how), progress=progress)
        split, features = of_pictures(judge, made, wish.labels, world)
        said = right(judge, split, world) if self.same else None
        metrics = generation.judged(self.features, features)
        self.made = Made(made, features)
        return Quality(self.part, len(self.features), self.count, features.shape[1], metrics, self.floor, said, self.known, self.notes)


def near(maker: Predictor, judge: Predictor, dataset: Dataset, made: Made, kept: Path | None, world: World) -> Copied | None:
    """The training pictures nearest to made ones by such features; None where nothing is held out."""
    if (part := held_out(dataset, final=True)) == "train":
        return None
    places = spaced(len(dataset.splits["train"]), copying.MOST)
    train = replace(dataset, splits={**dataset.splits, "train": dataset.splits["train"].take(places)})
    learned, held = (of_part(judge, some, name, kept, world)[0] for some, name in ((train, "train"), (dataset, part)))
    held = held[torch.from_numpy(spaced(len(held), copying.HELD_OUT))]
    features = (made.features, learned, held)
    return copying.by_features(str(judge.source), made.pictures, features, places, dataset, part, maker.preprocess)


def fits(maker: Predictor, judge: Predictor, count: int, real: int) -> None:
    """Errors: `UsageError` for models that are not of these kinds, and too few pictures."""
    if not maker.task.is_generative:
        raise UsageError(f"{maker.recipe.model.name} makes no pictures that could be judged by features", "leave --features out")
    if not judge.task.is_classifier:
        raise UsageError(f"{judge.source} is no classifier", "--features names a run that tells classes")
    if min(count, real) < generation.least():
        raise UsageError(f"{count} made and {real} real pictures: there must be {generation.least()} of each", "a larger --count or part")


def right(judge: Predictor, split: Split, world: World) -> float:
    """The share of pictures that a classifier is right about."""
    return float(evaluate(judge.described, split, world, workers=0).metrics["top1"])
