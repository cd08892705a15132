"""The quality of a model's frozen features: a linear probe and k-nearest neighbours on cached features."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitrail import catalog
from vitrail.analysis import probe as maths
from vitrail.assembly import model, run_directory
from vitrail.assembly.data import open_data_of
from vitrail.assembly.prepare import Progress, prepare_run
from vitrail.data.dataset import Dataset
from vitrail.data.splits import evaluation_part
from vitrail.engine.processes.world import World
from vitrail.errors import CheckpointError, UsageError, choose, nearest
from vitrail.evaluation.features import part_features
from vitrail.inference.predictor import Predictor, load_predictor
from vitrail.recipe import Choice, DataConfig, Recipe, TrainConfig
from vitrail.validation import as_path


@dataclass(frozen=True)
class ProbeRequest:
    """What to probe, as requested."""

    source: str
    data: str = ""  # empty: that of the run
    split: str = ""  # empty: the test part, else the validation part
    labels: float = 1.0  # fraction of the training labels
    seed: int = 0
    ks: tuple[int, ...] = (10, 20)
    cache: str = ""  # folder of the features; empty: in the run folder
    keys: dict[str, Any] = field(default_factory=dict)  # of a model by name


@dataclass(frozen=True)
class ProbeResult:
    """The result. linear, knn: metrics by name; knn is empty where an image has several classes."""

    part: str
    count: int
    labelled: int
    width: int
    random: bool  # whether the weights are random
    l2: float
    tried: dict[float, float]  # the validation score of each L2 strength
    linear: dict[str, float]
    knn: dict[int, dict[str, float]]
    notes: tuple[str, ...]


def run_probe(request: ProbeRequest, world: World, progress: Progress | None = None) -> ProbeResult:
    """Errors: `UsageError`, `DataError`, `CheckpointError`; `RunError` for features that are not finite."""
    predictor, dataset, random = open_model(request, world, progress)
    if predictor.task.is_generative:
        raise UsageError(
            f"{request.source} is a generative model without features to probe", "use a model of another task"
        )
    if not has_labels(dataset):
        what = "the images have no labels, and a probe learns from labels"
        raise UsageError(what, "--data FOLDER with one folder of images a class")
    part = request.split or evaluation_part(dataset, final=True)
    choose(part, dataset.splits, "part of the data", f"parts: {', '.join(dataset.splits)}")
    if part == "train":
        what = "is what the probe learns from" if request.split else "is the only one, and the probe learns from it"
        raise UsageError(f"the training part {what}", "--split val or test, with data that has one")
    cache_dir, notes = cache_folder(request, random), [*dataset.notes]
    features = {}
    for name in ("train", part):
        features[name], more = part_features(predictor, dataset, name, cache_dir, world)
        notes += more
    chosen = maths.draw_subset(dataset.splits["train"].labels, request.labels, request.seed)
    result = evaluate_probe(request, dataset, part, features, chosen, world)
    return dataclasses.replace(result, random=random, notes=(*notes, *result.notes))


def has_labels(dataset: Dataset) -> bool:
    """Whether the images have labels that differ; the classes of masks and boxes are none of the images."""
    labels = [split.labels for split in dataset.splits.values() if len(split)]
    return bool(dataset.classes) and any((own != own[0]).any() for own in labels)


def evaluate_probe(
    request: ProbeRequest, dataset: Dataset, part: str, features: dict[str, Tensor], chosen: np.ndarray, world: World
) -> ProbeResult:
    """Fits the probe and evaluates both. In double precision on a CPU; GPUs are slow at that, or do not support it."""
    kind = torch.float64 if world.device.type == "cpu" else torch.float32
    classes, several = len(dataset.classes), dataset.multi_label
    train, queries = (features[name].to(world.device, kind) for name in ("train", part))
    labels, annotation = (
        torch.from_numpy(np.ascontiguousarray(dataset.splits[name].labels)) for name in ("train", part)
    )
    subset = torch.from_numpy(chosen)
    train, labels = train[subset.to(world.device)], labels[subset].to(world.device)
    choice = maths.choose_l2(train, labels, classes, request.seed)
    fitted = maths.fit_probe(train, labels, classes, choice.l2)
    votes = {} if several else maths.knn_probabilities(train, labels, queries, classes, request.ks)
    notes = ["these images have several classes each, so there is no k-NN"] if several else []
    notes += [f"k = {k} of {len(train)} labelled images: all of them are used" for k in votes if k > len(train)]
    notes.append(f"L2 {choice.l2:.2g}: {choice.reason}")
    linear = maths.probe_metrics(fitted.probabilities(queries, several), annotation)
    knn = {k: maths.probe_metrics(v, annotation) for k, v in votes.items()}
    counts = len(queries), len(train), train.shape[1]
    return ProbeResult(part, *counts, False, choice.l2, choice.scores, linear, knn, tuple(notes))


def open_model(request: ProbeRequest, world: World, progress: Progress | None) -> tuple[Predictor, Dataset, bool]:
    """The model, the data, and whether the weights are random."""
    if is_model_name(request.source):
        return *build_random_model(request, world, progress), True
    if request.keys:
        raise UsageError(
            "keys are for a model by name, not for trained weights",
            "vitrail probe vit/nano --model.depth 6 ...",
        )
    if not as_path(request.source).exists():
        catalog.refuse_foreign_names(request.source)
    if (
        not as_path(request.source).exists()
        and (near := nearest(request.source, catalog.list_names("models")))
        and "/" in request.source
    ):
        raise UsageError(
            f"{request.source} is neither a model nor a run",
            f"did you mean {' or '.join(near)}? vitrail models lists them all",
        )
    predictor = load_predictor(request.source, str(world.device))
    return predictor, open_data_of(request.source, request.data, "classes")[0], False  # of images with captions too


def is_model_name(source: str) -> bool:
    """Whether it names a model, not a file or folder."""
    return source.partition("/")[0] in catalog.list_modules("models") and not as_path(source).exists()


def build_random_model(request: ProbeRequest, world: World, progress: Progress | None) -> tuple[Predictor, Dataset]:
    """A model by name with random weights, as a training on this data would start: defaults are chosen from the
    data."""
    if not request.data:
        raise UsageError(f"{request.source} with random weights has no data of its own", "--data FOLDER")
    recipe = Recipe(
        model=Choice(request.source, request.keys),
        data=DataConfig("", {"path": request.data}),
        train=TrainConfig(seed=request.seed, precision="fp32"),
    )
    prepared = prepare_run(recipe, world, progress)
    torch.manual_seed(request.seed)
    bundle = model.assemble_model(prepared.recipe, prepared.dataset.classes, prepared.dataset.multi_label)
    return Predictor(
        bundle.model.to(world.device).eval(), bundle.classes, bundle.recipe, bundle.task, Path(request.source)
    ), prepared.dataset


def cache_folder(request: ProbeRequest, random: bool) -> Path | None:
    """The cache of features: as given, or in the folder of the run; None without either."""
    if request.cache:
        path = as_path(request.cache)
        if path.exists() and not path.is_dir():
            raise UsageError(f"--cache {request.cache} is a file", "give a folder; it is created if needed")
        return path
    try:
        return None if random else run_directory.find_run(request.source).path / "features"
    except CheckpointError:
        return None
