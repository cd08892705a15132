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
from vitrail.assembly.data import data_of
from vitrail.assembly.prepare import Progress, prepare
from vitrail.data.dataset import Dataset
from vitrail.data.splits import held_out
from vitrail.engine.world import World
from vitrail.errors import CheckpointError, UsageError, nearest, pick
from vitrail.evaluation.features import of_part
from vitrail.inference.predictor import Predictor
from vitrail.inference.predictor import load as trained
from vitrail.recipe import Choice, Plan, Recipe
from vitrail.validation import place


@dataclass(frozen=True)
class Wish:
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
class Probed:
    """What was found. linear, knn: metrics by name; knn is empty where a picture has several classes."""

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


def probe(wish: Wish, world: World, progress: Progress | None = None) -> Probed:
    """Errors: `UsageError`, `DataError`, `CheckpointError`; `RunError` for features that are not finite."""
    predictor, dataset, random = opened(wish, world, progress)
    if predictor.task.is_generative:
        raise UsageError(f"{wish.source} makes pictures; it has no features to probe", "a model that tells what is in pictures")
    part = wish.split or held_out(dataset, final=True)
    pick(part, dataset.splits, "part of the data", f"parts: {', '.join(dataset.splits)}")
    if part == "train":
        what = "is what the probe learns from" if wish.split else "is all there is, and the probe learns from it"
        raise UsageError(f"the training part {what}", "--split val or test, of data that has such a part")
    kept, notes = cache_folder(wish, random), [*dataset.notes]
    features = {}
    for name in ("train", part):
        features[name], told = of_part(predictor, dataset, name, kept, world)
        notes += told
    chosen = maths.draw(dataset.splits["train"].labels, wish.labels, wish.seed)
    found = judged(wish, dataset, part, features, chosen, world)
    return dataclasses.replace(found, random=random, notes=(*notes, *found.notes))


def judged(wish: Wish, dataset: Dataset, part: str, features: dict[str, Tensor], chosen: np.ndarray, world: World) -> Probed:
    """Fits and votes. In double precision on a CPU; a GPU is slow at that, or cannot do it."""
    kind = torch.float64 if world.device.type == "cpu" else torch.float32
    classes, several = len(dataset.classes), dataset.multi_label
    train, asked = (features[name].to(world.device, kind) for name in ("train", part))
    labels, truth = (torch.from_numpy(np.ascontiguousarray(dataset.splits[name].labels)) for name in ("train", part))
    picked = torch.from_numpy(chosen)
    train, labels = train[picked.to(world.device)], labels[picked].to(world.device)
    choice = maths.choose(train, labels, classes, wish.seed)
    fitted = maths.fit(train, labels, classes, choice.l2)
    votes = {} if several else maths.neighbours(train, labels, asked, classes, wish.ks)
    notes = ["these pictures have several classes each, so neighbours do not vote"] if several else []
    notes += [f"k = {k} of {len(train)} labelled pictures: all of them vote" for k in votes if k > len(train)]
    if not choice.scores:
        notes.append(f"too few labels to choose the L2 strength by: {choice.l2:g} is taken")
    return Probed(
        part, len(asked), len(train), train.shape[1], False, choice.l2, choice.scores,
        maths.judged(fitted.probabilities(asked, several), truth), {k: maths.judged(v, truth) for k, v in votes.items()}, tuple(notes),
    )  # fmt: skip


def opened(wish: Wish, world: World, progress: Progress | None) -> tuple[Predictor, Dataset, bool]:
    """The model, the data, and whether the weights were drawn by chance."""
    if by_name(wish.source):
        return *drawn(wish, world, progress), True
    if wish.keys:
        raise UsageError("trained weights are as they are; keys go with a model by name", "vitrail probe vit/nano --model.depth 6 ...")
    if not place(wish.source).exists() and (near := nearest(wish.source, catalog.names("models"))) and "/" in wish.source:
        raise UsageError(f"{wish.source} is neither a model nor a run", f"did you mean {' or '.join(near)}? vitrail models lists them all")
    return trained(wish.source, str(world.device)), data_of(wish.source, wish.data)[0], False


def by_name(source: str) -> bool:
    """Whether a model is meant, not a file or folder."""
    return source.partition("/")[0] in catalog.rooms("models") and not place(source).exists()


def drawn(wish: Wish, world: World, progress: Progress | None) -> tuple[Predictor, Dataset]:
    """A model by name as a training on this data would begin with it: pictures and open settings are chosen from the data."""
    if not wish.data:
        raise UsageError(f"{wish.source} with random weights has no data of its own", "--data FOLDER says what to probe it on")
    recipe = Recipe(model=Choice(wish.source, wish.keys), data=Choice("", {"path": wish.data}), plan=Plan(seed=wish.seed, precision="fp32"))
    prepared = prepare(recipe, world, progress)
    torch.manual_seed(wish.seed)
    made = model.assemble(prepared.recipe, prepared.dataset.classes, prepared.dataset.multi_label)
    return Predictor(made.model.to(world.device).eval(), made.classes, made.recipe, made.task, Path(wish.source)), prepared.dataset


def cache_folder(wish: Wish, random: bool) -> Path | None:
    """Where features are kept: as said, or in the folder of the run; None for what is neither."""
    if wish.cache:
        path = place(wish.cache)
        if path.exists() and not path.is_dir():
            raise UsageError(f"--cache {wish.cache} is a file", "give a folder; it is made if it is not there")
        return path
    try:
        return None if random else run_directory.find(wish.source).path / "features"
    except CheckpointError:
        return None
