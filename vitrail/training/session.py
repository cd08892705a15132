"""A run that can step: a new one from a recipe, or an old one taken up where its newest sound checkpoint stands."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vitrail.assembly import latents, model, pretrained
from vitrail.assembly.prepare import Prepared, Progress, prepare
from vitrail.assembly.resolve import Names
from vitrail.assembly.run_directory import RunFolder, command, fresh
from vitrail.contracts import trunk_of
from vitrail.data import fingerprint as entries
from vitrail.data.cache import cached
from vitrail.data.dataset import Dataset
from vitrail.data.loader import default_workers
from vitrail.data.splits import held_out
from vitrail.data.transforms.base import Transform
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.engine.freeze import Wave
from vitrail.engine.parallel import recompute
from vitrail.engine.precision import Precision
from vitrail.engine.state import State
from vitrail.engine.world import World
from vitrail.evaluation.generation import frechet
from vitrail.recipe import Change, Recipe, to_tables
from vitrail.training.feed import Feed, growth, mixing, shares
from vitrail.training.optimizer import learner
from vitrail.training.teacher import hire
from vitrail.version import versions
from vitrail.weights.report import LoadReport


@dataclass
class Session:
    """Everything a loop works on."""

    folder: RunFolder
    recipe: Recipe
    dataset: Dataset
    described: model.Described
    state: State
    feed: Feed
    world: World
    workers: int
    notes: list[str]
    changed: tuple[Change, ...] = ()  # what the user allowed to change on resuming
    waves: tuple[Wave, ...] = ()  # what of the frozen weights begins to learn when
    taken: LoadReport | None = None  # what became of the weights that the run began with
    seen: Dataset | None = None  # the pictures, where the data set holds latents of them

    @property
    def preprocess(self) -> Preprocess:
        return model.preprocess(self.recipe.input)

    @property
    def pictures(self) -> Dataset:
        """The data set as people see it."""
        return self.seen or self.dataset

    @property
    def judging(self) -> Transform:
        """What becomes of pictures that the model is judged by."""
        return self.feed.transform.deterministic()

    @property
    def precision(self) -> Precision:
        return Precision(self.recipe.plan.precision, self.world.device.type)

    @property
    def steps(self) -> int:
        return self.recipe.plan.steps or 0


def new(recipe: Recipe, out: Path | None, world: World, progress: Progress | None = None) -> tuple[Session, Prepared]:
    """A run that has not begun, its folder made: by default a new one under runs/, named after data and model.

    Errors: `UsageError`, `DataError`; nothing is left behind by them.
    """
    world.agree({**spelled(recipe), "torch": torch.__version__, "out": str(out)})
    prepared = prepare(recipe, world, progress)
    world.agree({"the data set": entries.fingerprint(prepared.dataset.entries)})
    data, name = prepared.recipe.data, prepared.recipe.model.name
    place_of = out or world.once(lambda: fresh(str(data.keys.get("path") or data.name), name))
    session = build(prepared.recipe, prepared.dataset, RunFolder(place_of), world, prepared.names)
    frechet.check(session.recipe, session.described.task)
    lay_up(session, progress)
    session.taken = begin(session, prepared)
    world.once(lambda: create(session, prepared))
    session.notes += prepared.notes
    return session, prepared


def lay_up(session: Session, progress: Progress | None = None) -> None:
    """Latents in place of pictures, where the recipe names an autoencoder: of those that are trained on, and of those that judge."""
    if session.recipe.input.vae is None:
        return
    dataset = session.dataset
    parts = list(dict.fromkeys(["train", held_out(dataset, final=False), held_out(dataset, final=True)]))
    session.seen = dataset
    session.dataset, notes = latents.laid_up(dataset, session.recipe, parts, session.folder.path, session.world, progress)
    session.notes += notes


def begin(session: Session, prepared: Prepared) -> LoadReport | None:
    """Puts the weights that the recipe starts from into the model. The averaged weights follow at the first step."""
    if prepared.origin is None:
        return None
    return pretrained.begin(session.state.model, prepared.origin, session.recipe.start, session.dataset.classes)


def spelled(recipe: Recipe) -> dict[str, Any]:
    """Every key of a recipe by its full name."""
    return {f"{section}.{key}": value for section, table in to_tables(recipe).items() for key, value in table.items()}


def create(session: Session, prepared: Prepared) -> None:
    dataset, task = prepared.dataset, session.described.task
    about = {
        "format": model.FORMAT,
        "classes": list(session.described.classes),
        "multi_label": task.multi_label,
        "kind": task.annotations,
        "metric": task.metric.name,
        "lower_is_better": not task.metric.higher_is_better,
        "reasons": list(prepared.reasons),
        "notes": [*dataset.notes, *prepared.notes],
        "command": command(),
        "data": {
            "layout": dataset.layout,
            "parts": {name: len(split) for name, split in dataset.splits.items()},
            "channels": dataset.channels,
            "content": prepared.survey.content,
            "left_out": prepared.left_out,
        },
        "versions": versions(),
        "weights": session.taken.lines() if session.taken else [],
        "processes": session.world.size,
        "parameters": sum(p.numel() for p in session.described.model.parameters()),
    }
    session.folder.create(prepared.recipe, about, dataset.entries)


def build(recipe: Recipe, dataset: Dataset, folder: RunFolder, world: World, names: Names | None = None) -> Session:
    """Model, optimiser and feed of a recipe with nothing left open; the same on every process."""
    torch.manual_seed(recipe.plan.seed)
    described = model.assemble(recipe, dataset.classes, dataset.multi_label, names)
    net = described.model.to(world.device)
    grown = growth(recipe, described, world.device)
    blocks: list[Any] = list(trunk_of(net).blocks)
    state, waves = learner(recipe, net, described.task, world.device)
    if recipe.machine.grad_checkpoint:
        recompute(blocks)
    if recipe.plan.compile:
        for block in blocks:
            block.compile()
    p = recipe.plan
    pre, mixed = model.preprocess(recipe.input), mixing(recipe)
    task, train = described.task, dataset.splits["train"]
    transform = task.transform(recipe, pre)
    share, each = shares(p.batch or 1, world.size, recipe.machine.micro, mixed.on)
    task.fit_class_weights(torch.from_numpy(train.labels))
    teacher = None if task.teacher is None else hire(recipe, dataset.classes, pre, len(train), world.device)
    feed = Feed(transform, p.seed, task, world.device, p.batch or 1, share, each, mixed, grown, teacher)
    kept, notes = in_memory(dataset, world) if recipe.machine.cache and recipe.input.vae is None else (dataset, [])
    workers = recipe.machine.workers
    if workers is None:
        workers = default_workers(dataset.splits["train"], transform.works_per_image, world.size)
    return Session(folder, recipe, kept, described, state, feed, world, workers, [*dataset.notes, *notes], waves=waves)


def in_memory(dataset: Dataset, world: World) -> tuple[Dataset, list[str]]:
    """The data set with what is read again and again kept in memory, and what there is to say of it."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", world.size))  # torchrun says how many processes share this machine
    return cached(dataset, list(dict.fromkeys(["train", held_out(dataset, final=False)])), here)
