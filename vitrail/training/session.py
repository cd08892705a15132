"""A run that can step: a new one from a recipe, or an old one taken up where its newest sound checkpoint stands."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vitrail.assembly import latents, model, pretrained
from vitrail.assembly.prepare import PreparedRun, Progress, prepare_run
from vitrail.assembly.resolve import Names
from vitrail.assembly.run_directory import RunFolder, command_line, new_run_path
from vitrail.contracts import trunk_of
from vitrail.data import fingerprint as entries
from vitrail.data.cache import cache_images
from vitrail.data.dataset import Dataset
from vitrail.data.loader import default_workers
from vitrail.data.splits import evaluation_part
from vitrail.data.transforms.base import Transform
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.engine.freeze import UnfreezeStage
from vitrail.engine.parallel import recompute
from vitrail.engine.precision import Precision
from vitrail.engine.state import State
from vitrail.engine.world import World
from vitrail.evaluation.generation import frechet
from vitrail.recipe import Change, Recipe, to_tables
from vitrail.training.feed import Feed, batch_shares, build_growth, build_mixing
from vitrail.training.optimizer import build_state
from vitrail.training.teacher import build_teacher
from vitrail.version import versions
from vitrail.weights.report import LoadReport


@dataclass
class Session:
    """Everything a loop works on."""

    folder: RunFolder
    recipe: Recipe
    dataset: Dataset
    bundle: model.ModelBundle
    state: State
    feed: Feed
    world: World
    workers: int
    notes: list[str]
    changed: tuple[Change, ...] = ()  # what the user allowed to change on resuming
    unfreeze_stages: tuple[UnfreezeStage, ...] = ()  # what of the frozen weights begins to learn when
    load_report: LoadReport | None = None  # what became of the weights that the run began with
    shown: Dataset | None = None  # the images, where the data set holds latents of them

    @property
    def preprocess(self) -> Preprocess:
        return model.build_preprocess(self.recipe.input)

    @property
    def images(self) -> Dataset:
        """The data set as people see it."""
        return self.shown or self.dataset

    @property
    def evaluation_preprocess(self) -> Transform:
        """What becomes of images that the model is judged by."""
        return self.feed.transform.deterministic()

    @property
    def precision(self) -> Precision:
        return Precision(self.recipe.train.precision, self.world.device.type)

    @property
    def steps(self) -> int:
        return self.recipe.train.steps or 0


def create_session(
    recipe: Recipe, out: Path | None, world: World, progress: Progress | None = None
) -> tuple[Session, PreparedRun]:
    """A run that has not begun, its folder made: by default a new one under runs/, named after data and model.

    Errors: `UsageError`, `DataError`; nothing is left behind by them.
    """
    world.assert_equal_across_ranks({**resolve_paths(recipe), "torch": torch.__version__, "out": str(out)})
    prepared = prepare_run(recipe, world, progress)
    world.assert_equal_across_ranks({"the data set": entries.fingerprint(prepared.dataset.entries)})
    data, name = prepared.recipe.data, prepared.recipe.model.name
    place_of = out or world.on_rank_zero(lambda: new_run_path(str(data.keys.get("path") or data.name), name))
    session = build(prepared.recipe, prepared.dataset, RunFolder(place_of), world, prepared.names)
    frechet.load_classifier(session.recipe, session.bundle.task)
    cache_latents(session, progress)
    session.load_report = load_initial_weights(session, prepared)
    world.on_rank_zero(lambda: create(session, prepared))
    session.notes += prepared.notes
    return session, prepared


def cache_latents(session: Session, progress: Progress | None = None) -> None:
    """Latents in place of images, where the recipe names an autoencoder: of those that are trained on, and of those that judge."""
    if session.recipe.input.vae is None:
        return
    dataset = session.dataset
    parts = list(dict.fromkeys(["train", evaluation_part(dataset, final=False), evaluation_part(dataset, final=True)]))
    session.shown = dataset
    session.dataset, notes = latents.with_cached_latents(
        dataset, session.recipe, parts, session.folder.path, session.world, progress
    )
    session.notes += notes


def load_initial_weights(session: Session, prepared: PreparedRun) -> LoadReport | None:
    """Puts the weights that the recipe starts from into the model. The averaged weights follow at the first step."""
    if prepared.origin is None:
        return None
    return pretrained.load_origin(session.state.model, prepared.origin, session.recipe.init, session.bundle.classes)


def resolve_paths(recipe: Recipe) -> dict[str, Any]:
    """Every key of a recipe by its full name."""
    return {f"{section}.{key}": value for section, table in to_tables(recipe).items() for key, value in table.items()}


def create(session: Session, prepared: PreparedRun) -> None:
    dataset, task = prepared.dataset, session.bundle.task
    about = {
        "format": model.FORMAT,
        "classes": list(session.bundle.classes),
        "multi_label": task.multi_label,
        "kind": task.annotations,
        "metric": task.metric.name,
        "lower_is_better": not task.metric.higher_is_better,
        "reasons": list(prepared.reasons),
        "notes": [*dataset.notes, *prepared.notes],
        "command": command_line(),
        "data": {
            "layout": dataset.layout,
            "parts": {name: len(split) for name, split in dataset.splits.items()},
            "channels": dataset.channels,
            "content": prepared.survey.content,
            "left_out": prepared.left_out,
        },
        "versions": versions(),
        "weights": session.load_report.lines() if session.load_report else [],
        "processes": session.world.size,
        "parameters": sum(p.numel() for p in session.bundle.model.parameters()),
    }
    session.folder.create(prepared.recipe, about, dataset.entries)


def build(recipe: Recipe, dataset: Dataset, folder: RunFolder, world: World, names: Names | None = None) -> Session:
    """Model, optimiser and feed of a recipe with nothing left open; the same on every process."""
    torch.manual_seed(recipe.train.seed)
    bundle = model.assemble_model(recipe, dataset.classes, dataset.multi_label, names)
    net = bundle.model.to(world.device)
    grown = build_growth(recipe, bundle, world.device)
    blocks: list[Any] = list(trunk_of(net).blocks)
    state, waves = build_state(recipe, net, bundle.task, world.device)
    if recipe.runtime.grad_checkpoint:
        recompute(blocks)
    if recipe.train.compile:
        for block in blocks:
            block.compile()
    p = recipe.train
    pre, mixed = model.build_preprocess(recipe.input), build_mixing(recipe)
    task, train = bundle.task, dataset.splits["train"]
    transform = task.transform(recipe, pre)
    share, each = batch_shares(p.batch_size or 1, world.size, recipe.runtime.micro_batch, mixed.is_on)
    task.fit_class_weights(torch.from_numpy(train.labels))
    teacher = None if task.teacher is None else build_teacher(recipe, dataset.classes, pre, len(train), world.device)
    feed = Feed(transform, p.seed, task, world.device, p.batch_size or 1, share, each, mixed, grown, teacher)
    kept, notes = (
        in_memory(dataset, world) if recipe.runtime.cache_images and recipe.input.vae is None else (dataset, [])
    )
    workers = recipe.runtime.workers
    if workers is None:
        workers = default_workers(dataset.splits["train"], transform.works_per_image, world.size)
    return Session(
        folder, recipe, kept, bundle, state, feed, world, workers, [*dataset.notes, *notes], unfreeze_stages=waves
    )


def in_memory(dataset: Dataset, world: World) -> tuple[Dataset, list[str]]:
    """The data set with what is read again and again kept in memory, and what there is to say of it."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", world.size))  # torchrun says how many processes share this machine
    return cache_images(dataset, list(dict.fromkeys(["train", evaluation_part(dataset, final=False)])), here)
