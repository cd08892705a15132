"""The worth of a model's frozen features: computed once and kept, then a linear probe and a vote of the nearest neighbours on them."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vitrail import catalog
from vitrail.analysis import probe as maths
from vitrail.checks import place
from vitrail.contracts import trunk_of
from vitrail.data.changes import fingerprint
from vitrail.data.dataset import ArrayReader, Dataset, Split
from vitrail.data.loader import Fetch, default_workers, evaluation, load
from vitrail.data.preprocess import Preprocess
from vitrail.engine.evaluate import predict
from vitrail.engine.precision import Precision
from vitrail.engine.world import World
from vitrail.errors import CheckpointError, DataError, RunError, UsageError, nearest, pick
from vitrail.recipe import Choice, Plan, Recipe
from vitrail.run import folder, model
from vitrail.run.predict import Predictor
from vitrail.run.predict import load as trained
from vitrail.run.prepare import Progress, data_of, held_out, prepare
from vitrail.version import __version__
from vitrail.weights.file import digest, pack, unpack, write_file

BATCH = 256


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


def summaries(net: Any, images: Tensor, labels: Tensor, ids: np.ndarray) -> Tensor:
    """The backbone's summaries side by side, [B D]."""
    return torch.cat(net.backbone(images).summaries, dim=1)


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
        return None if random else folder.find(wish.source).path / "features"
    except CheckpointError:
        return None


def of_part(predictor: Predictor, dataset: Dataset, part: str, kept: Path | None, world: World) -> tuple[Tensor, list[str]]:
    """The features of a part [N D], in the order of its pictures, and what there is to say: from the cache where it holds just these."""
    split = dataset.splits[part]
    if not len(split):
        raise DataError(f"there is nothing to probe with: the part {part} is empty", "--split names another part")
    notes: list[str] = []
    file, about = None, {}
    if kept is not None:
        about = described(predictor, dataset, part)
        file = kept / f"{hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]}.safetensors"
        found, notes = read(file, about, len(split))
        if found is not None:
            return found, notes
    features = computed(predictor.model, split, predictor.preprocess, world)
    if not torch.isfinite(features).all():
        bad = (~torch.isfinite(features).all(1)).nonzero()[:, 0]
        raise RunError(f"the features of {len(bad):,} pictures are not finite, the first: {split.names[int(bad[0])]}",
                       "these weights cannot be used; take an earlier checkpoint")  # fmt: skip
    if file is not None:
        notes += written(file, features, about)
    return features, notes


def of_pictures(predictor: Predictor, pictures: np.ndarray, labels: Sequence[int], world: World) -> tuple[Split, Tensor]:
    """Pictures uint8 [N H W C] as a part of their own, and its features [N D]."""
    split = Split([str(i) for i in range(len(pictures))], np.array(labels, np.int64), ArrayReader(pictures))
    return split, computed(predictor.model, split, predictor.preprocess, world)


def computed(net: nn.Module, split: Split, pre: Preprocess, world: World) -> Tensor:
    """What the backbone makes of every picture, fp32 on the CPU."""
    workers = default_workers(split, False, 1) if len(split) > 4 * BATCH else 0
    batches = load(Fetch(split, pre), evaluation(split, np.arange(len(split)), BATCH), workers)
    return torch.cat([rows for _, rows in predict(net, summaries, batches, pre.batch, Precision("fp32", world.device.type))])


def described(predictor: Predictor, dataset: Dataset, part: str) -> dict[str, Any]:
    """Everything that features depend on. Files are told apart by name, size and time of change, as on resuming."""
    backbone = trunk_of(predictor.model)
    config = dataclasses.asdict(backbone.config)
    names = hashlib.sha256("\0".join(dataset.splits[part].names).encode(errors="surrogateescape")).hexdigest()
    said = {
        "model": {"name": predictor.recipe.model.name, **config},
        "weights": digest({k: v.cpu() for k, v in backbone.state_dict().items()}, {}),
        "preprocess": dataclasses.asdict(predictor.preprocess),
        "data": fingerprint(dataset.entries),
        "part": part,
        "names": names,
        "version": __version__,
    }
    return json.loads(json.dumps(said, default=str))  # as it is read back


def read(file: Path, about: dict[str, Any], count: int) -> tuple[Tensor | None, list[str]]:
    """The features in a file, None where they are not there, damaged or not these."""
    if not file.is_file():
        return None, []
    try:
        tensors, said = unpack(file)
    except CheckpointError as error:
        return None, [f"the kept features are computed again: {error.what}"]
    found = tensors.get("features")
    if said != about or found is None or len(found) != count:
        return None, [f"the kept features are computed again: {file} holds others"]
    return found, [f"features from {file}"]


def written(file: Path, features: Tensor, about: dict[str, Any]) -> list[str]:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, pack({"features": features}, about))
    except OSError as error:
        return [f"the features could not be kept: {error.strerror or error} at {file.parent}"]
    return [f"features kept in {file}"]
