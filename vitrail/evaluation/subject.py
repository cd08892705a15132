"""The data that a model is evaluated on: all of other data, read as the run reads its own, or a part of the run's."""

import contextlib
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from vitrail.assembly.data import open_data_of, open_given, reading_keys
from vitrail.assembly.run_directory import RunFolder, find_run
from vitrail.contracts import Task
from vitrail.data.dataset import Dataset, Split
from vitrail.data.survey.assess import most_left_out
from vitrail.engine.processes.world import World
from vitrail.errors import BadImage, CheckpointError, UsageError, many
from vitrail.evaluation.classes import match_classes
from vitrail.evaluation.engine_reader import evaluate_engine
from vitrail.evaluation.evaluate import Evaluation, evaluate, with_interval, with_weights
from vitrail.evaluation.scope import ALL, Scope, choose_split, count_trained
from vitrail.inference.embeddings import name_classes
from vitrail.inference.image_predictor import ImagePredictor
from vitrail.inference.predictor import Predictor
from vitrail.recipe import Recipe, override


@dataclass(frozen=True)
class SubjectRequest:
    """What to evaluate, as requested. source: of the model; data: a path, empty: that of the run; split: a part, "all",
    or empty; keys: of the layout of `data`; skip_unknown: leave out classes that the model does not know."""

    source: str
    data: str = ""
    split: str = ""
    keys: Mapping[str, Any] = field(default_factory=dict)
    skip_unknown: bool = False


class Subject(NamedTuple):
    """What is evaluated. folder: where the evaluation is kept, None for other data than the run's own."""

    dataset: Dataset
    part: str
    split: Split
    folder: RunFolder | None
    scope: Scope

    @property
    def is_kept(self) -> bool:
        """Whether the evaluation belongs into the folder of the run: that of its own data, with the best weights where
        it has any."""
        best = self.scope.weights.get("checkpoint") == "best"
        return self.folder is not None and (best or self.folder.best_weights is None)


class Source(NamedTuple):
    """Images of a part of a data set, with the classes of the data. run: of the model, None without one."""

    dataset: Dataset
    part: str
    split: Split
    run: RunFolder | None


def open_source(request: SubjectRequest, task: Task) -> Source:
    """Errors: `UsageError`, `DataError`."""
    run, own = None, not request.data
    if request.data:
        dataset = open_given(request.source, {"path": request.data, **request.keys}, task)
        with contextlib.suppress(CheckpointError):  # a model without its run
            run = find_run(request.source)
    else:
        if request.keys:
            key = next(iter(request.keys)).replace("_", "-")
            raise UsageError(f"--data.{key} reads other data than the run's own", "--data FOLDER names it")
        dataset, run = open_data_of(request.source)
    part, split = choose_split(dataset, request.split, own)
    return Source(dataset, part, split, run)


def open_subject(request: SubjectRequest, predictor: ImagePredictor, source: Source | None = None) -> Subject:
    """source: that of the request, where it is open. Errors: `UsageError`, `DataError`; for other data also where it
    has classes that the model does not know."""
    dataset, part, split, run = source or open_source(request, predictor.task)
    own = not request.data
    matched = match_classes(split, dataset, predictor.classes, predictor.task, request.skip_unknown)
    scope = Scope(
        data=request.data or describe_data(run, dataset),
        layout=dataset.layout,
        part=part,
        count=len(matched.split),
        parts={name: len(images) for name, images in dataset.splits.items()},
        classes=matched.names,
        model_classes=predictor.classes,
        excluded=matched.excluded,
        trained=trained_images(dataset, part, matched.split, run, own),
        weights={} if run is None else run.describe_weights(is_best(predictor, run)),
        own=own,
    )
    dataset = dataclasses.replace(dataset, splits={**dataset.splits, part: matched.split})
    return Subject(dataset, part, matched.split, run if own and part != ALL else None, scope)


def evaluate_readable(request: SubjectRequest, predictor: ImagePredictor, world: World) -> tuple[Subject, Evaluation]:
    """The evaluation of a request, with interval and weights. Images that cannot be read are left out and counted, up
    to the fraction that a training allows. Errors: `UsageError`, `DataError`, `BadImage`."""
    source = open_source(request, predictor.task)
    predictor = name_classes(predictor, source.dataset)
    subject = open_subject(request, predictor, source)
    try:
        result = evaluate_predictor(predictor, subject.split, world)
    except BadImage as error:
        subject = without_unreadable(subject, request, error)
        result = evaluate_predictor(predictor, subject.split, world)
    return subject, with_weights(with_interval(result), subject.scope.weights)


def evaluate_again(subject: Subject, predictor: ImagePredictor, world: World) -> Evaluation:
    """The same images by another predictor of the model, such as one of another size. Errors: `UsageError`."""
    result = evaluate_predictor(name_classes(predictor, subject.dataset), subject.split, world)
    return with_weights(with_interval(result), subject.scope.weights)


def evaluate_predictor(predictor: ImagePredictor, split: Split, world: World) -> Evaluation:
    """The evaluation of a model, by torch or by the engine of an exported file."""
    if isinstance(predictor, Predictor):
        return evaluate(predictor.bundle, split, world, precision=predictor.precision)
    return evaluate_engine(predictor, split)


def is_best(predictor: ImagePredictor, run: RunFolder) -> bool:
    """Whether a predictor has the best weights of a run."""
    return run.best_weights is not None and predictor.source.absolute() == run.best_weights.absolute()


def without_unreadable(subject: Subject, request: SubjectRequest, error: BadImage) -> Subject:
    """The data without the images that cannot be read, which are counted and named; up to the fraction that a training
    allows. Errors: `error` where more, or where that is not wanted."""
    choice = override(Recipe(data=reading_keys(request.source)), "data", {**request.keys, "name": ""}).data
    readable = [i for i in range(len(subject.split)) if is_readable(subject.split, i)]
    missing = len(subject.split) - len(readable)
    allowed = choice.on_error == "skip" and missing <= most_left_out(len(subject.split), choice.max_errors)
    if not readable or not allowed:
        raise error
    excluded = f"{many(missing, 'image')} that cannot be read, the first: {error.what}"
    scope = dataclasses.replace(
        subject.scope, count=len(readable), excluded="; ".join(filter(None, [subject.scope.excluded, excluded]))
    )
    return subject._replace(split=subject.split.select(np.array(readable)), scope=scope)


def is_readable(split: Split, index: int) -> bool:
    try:
        split.read(index)
        if split.annotation is not None:
            split.annotation(index)
    except BadImage:
        return False
    return True


def describe_data(run: RunFolder | None, dataset: Dataset) -> str:
    """The name of the data of a run."""
    return dataset.layout if run is None else str(run.recipe().data.keys.get("path") or dataset.layout)


def trained_images(dataset: Dataset, part: str, split: Split, run: RunFolder | None, own: bool) -> int:
    """How many of the images the model was trained on."""
    if own:
        return len(dataset.splits["train"]) if part in ("train", ALL) else 0
    return 0 if run is None else count_trained(dataset, split, run)
