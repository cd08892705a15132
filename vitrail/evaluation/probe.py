"""The worth of a model's frozen features: computed once and kept, then a linear probe and a vote of the nearest neighbours on them."""

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
from vitrail.engine.world import World
from vitrail.errors import CheckpointError, UsageError, choose, nearest
from vitrail.evaluation.features import part_features
from vitrail.inference.predictor import Predictor
from vitrail.inference.predictor import load_predictor as trained
from vitrail.recipe import Choice, DataConfig, Recipe, TrainConfig
from vitrail.validation import as_path


@dataclass(frozen=True)
class ProbeRequest:
    """What is to be found out, as it was asked for."""

    source: str
    data: str = ""  # empty: that of the run
    split: str = ""  # empty: the test part, else the validation part
    labels: float = 1.0  # share of the training labels
    seed: int = 0
    ks: tuple[int, ...] = (10, 20)
    cache: str = ""  # folder of the features; empty: that of the run
    keys: dict[str, Any] = field(default_factory=dict)  # of a model by name


@dataclass(frozen=True)
class ProbeResult:
    """What was found. linear, knn: metrics by name; knn is empty where an image has several classes."""

    part: str
    count: int
    labelled: int
    width: int
    random: bool  # the weights were drawn by chance
    l2: float
    tried: dict[float, float]  # the score of each L2 strength on what was held out to choose it
    linear: dict[str, float]
    knn: dict[int, dict[str, float]]
    notes: tuple[str, ...]


def run_probe(request: ProbeRequest, world: World, progress: Progress | None = None) -> ProbeResult:
    """Errors: `UsageError`, `DataError`, `CheckpointError`; `RunError` for features that are not finite."""
    predictor, dataset, random = open_model(request, world, progress)
    if predictor.task.is_generative:
        raise UsageError(
            f"{request.source} makes images; it has no features to probe", "a model that tells what is in images"
        )
    part = request.split or evaluation_part(dataset, final=True)
    choose(part, dataset.splits, "part of the data", f"parts: {', '.join(dataset.splits)}")
    if part == "train":
        what = "is what the probe learns from" if request.split else "is all there is, and the probe learns from it"
        raise UsageError(f"the training part {what}", "--split val or test, of data that has such a part")
    kept, notes = cache_folder(request, random), [*dataset.notes]
    features = {}
    for name in ("train", part):
        features[name], told = part_features(predictor, dataset, name, kept, world)
        notes += told
    chosen = maths.draw_subset(dataset.splits["train"].labels, request.labels, request.seed)
    found = evaluate_probe(request, dataset, part, features, chosen, world)
    return dataclasses.replace(found, random=random, notes=(*notes, *found.notes))


def evaluate_probe(
    request: ProbeRequest, dataset: Dataset, part: str, features: dict[str, Tensor], chosen: np.ndarray, world: World
) -> ProbeResult:
    """Fits and votes. In double precision on a CPU; a GPU is slow at that, or cannot do it."""
    kind = torch.float64 if world.device.type == "cpu" else torch.float32
    classes, several = len(dataset.classes), dataset.multi_label
    train, asked = (features[name].to(world.device, kind) for name in ("train", part))
    labels, annotation = (
        torch.from_numpy(np.ascontiguousarray(dataset.splits[name].labels)) for name in ("train", part)
    )
    picked = torch.from_numpy(chosen)
    train, labels = train[picked.to(world.device)], labels[picked].to(world.device)
    choice = maths.choose_l2(train, labels, classes, request.seed)
    fitted = maths.fit_probe(train, labels, classes, choice.l2)
    votes = {} if several else maths.knn_probabilities(train, labels, asked, classes, request.ks)
    notes = ["these images have several classes each, so neighbours do not vote"] if several else []
    notes += [f"k = {k} of {len(train)} labelled images: all of them vote" for k in votes if k > len(train)]
    if not choice.scores:
        notes.append(f"too few labels to choose the L2 strength by: {choice.l2:g} is taken")
    return ProbeResult(
        part, len(asked), len(train), train.shape[1], False, choice.l2, choice.scores,
        maths.probe_metrics(fitted.probabilities(asked, several), annotation), {k: maths.probe_metrics(v, annotation) for k, v in votes.items()}, tuple(notes),
    )  # fmt: skip


def open_model(request: ProbeRequest, world: World, progress: Progress | None) -> tuple[Predictor, Dataset, bool]:
    """The model, the data, and whether the weights were drawn by chance."""
    if by_name(request.source):
        return *build_random_model(request, world, progress), True
    if request.keys:
        raise UsageError(
            "trained weights are as they are; keys go with a model by name",
            "vitrail probe vit/nano --model.depth 6 ...",
        )
    if (
        not as_path(request.source).exists()
        and (near := nearest(request.source, catalog.list_names("models")))
        and "/" in request.source
    ):
        raise UsageError(
            f"{request.source} is neither a model nor a run",
            f"did you mean {' or '.join(near)}? vitrail models lists them all",
        )
    return trained(request.source, str(world.device)), open_data_of(request.source, request.data)[0], False


def by_name(source: str) -> bool:
    """Whether a model is meant, not a file or folder."""
    return source.partition("/")[0] in catalog.list_modules("models") and not as_path(source).exists()


def build_random_model(request: ProbeRequest, world: World, progress: Progress | None) -> tuple[Predictor, Dataset]:
    """A model by name as a training on this data would begin with it: images and open settings are chosen from the data."""
    if not request.data:
        raise UsageError(
            f"{request.source} with random weights has no data of its own", "--data FOLDER says what to probe it on"
        )
    recipe = Recipe(
        model=Choice(request.source, request.keys),
        data=DataConfig("", {"path": request.data}),
        train=TrainConfig(seed=request.seed, precision="fp32"),
    )
    prepared = prepare_run(recipe, world, progress)
    torch.manual_seed(request.seed)
    made = model.assemble_model(prepared.recipe, prepared.dataset.classes, prepared.dataset.multi_label)
    return Predictor(
        made.model.to(world.device).eval(), made.classes, made.recipe, made.task, Path(request.source)
    ), prepared.dataset


def cache_folder(request: ProbeRequest, random: bool) -> Path | None:
    """Where features are kept: as said, or in the folder of the run; None for what is neither."""
    if request.cache:
        path = as_path(request.cache)
        if path.exists() and not path.is_dir():
            raise UsageError(f"--cache {request.cache} is a file", "give a folder; it is made if it is not there")
        return path
    try:
        return None if random else run_directory.find_run(request.source).path / "features"
    except CheckpointError:
        return None
