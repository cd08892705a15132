"""The data that a model is evaluated on: all of other data, read as the run reads its own, or a part of the run's."""

import contextlib
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from vitrail.assembly.data import open_data_of, open_given
from vitrail.assembly.run_directory import RunFolder, find_run
from vitrail.contracts import Task
from vitrail.data.dataset import Dataset, Split
from vitrail.errors import CheckpointError, UsageError
from vitrail.evaluation.classes import match_classes
from vitrail.evaluation.scope import ALL, Scope, choose_split, count_trained
from vitrail.inference.predictor import Predictor


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


def open_subject(request: SubjectRequest, predictor: Predictor) -> Subject:
    """Errors: `UsageError`, `DataError`; for other data also where it has classes that the model does not know."""
    dataset, part, split, run = open_source(request, predictor.task)
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
        weights={} if run is None else run.describe_weights(predictor.source == run.best_weights),
        own=own,
    )
    dataset = dataclasses.replace(dataset, splits={**dataset.splits, part: matched.split})
    return Subject(dataset, part, matched.split, run if own and part != ALL else None, scope)


def describe_data(run: RunFolder | None, dataset: Dataset) -> str:
    """The name of the data of a run."""
    return dataset.layout if run is None else str(run.recipe().data.keys.get("path") or dataset.layout)


def trained_images(dataset: Dataset, part: str, split: Split, run: RunFolder | None, own: bool) -> int:
    """How many of the images the model was trained on."""
    if own:
        return len(dataset.splits["train"]) if part in ("train", ALL) else 0
    return 0 if run is None else count_trained(dataset, split, run)
