"""A run that can step: a new one from a recipe, or an old one taken up where its newest sound checkpoint stands."""

import dataclasses
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vitrail.checks import place
from vitrail.contracts import trunk_of
from vitrail.data import changes as entries
from vitrail.data.base import Transform
from vitrail.data.cache import cached
from vitrail.data.dataset import Dataset
from vitrail.data.loader import default_workers
from vitrail.data.preprocess import Preprocess
from vitrail.data.survey import survey
from vitrail.engine import checkpoint
from vitrail.engine.freeze import Wave
from vitrail.engine.precision import Precision
from vitrail.engine.state import State
from vitrail.engine.world import World
from vitrail.errors import DataError, UsageError
from vitrail.recipe import Change, Recipe, changes, override, to_tables
from vitrail.run import frechet, latents, model, start
from vitrail.run.feed import Feed, growth, mixing, shares
from vitrail.run.folder import RunFolder, command, fresh
from vitrail.run.learning import check_keys, learner
from vitrail.run.lock import held
from vitrail.run.prepare import Prepared, Progress, check_keep, held_out, open_data, prepare, sampled, without
from vitrail.run.resolve import Names
from vitrail.run.teacher import hire
from vitrail.version import __version__
from vitrail.weights.folder import clean_folder
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
    return start.begin(session.state.model, prepared.origin, session.recipe.start, session.dataset.classes)


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


def versions() -> dict[str, str]:
    return {"vitrail": __version__, "torch": torch.__version__, "python": platform.python_version()}


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


def recompute(blocks: Any) -> None:
    """Activations inside blocks are computed again in the backward pass instead of being kept."""
    from functools import partial

    from torch.utils.checkpoint import checkpoint as again

    for block in blocks:
        block.forward = partial(again, block.forward, use_reentrant=False)


def old(folder: RunFolder, given: list[tuple[str, dict[str, Any]]], allowed: list[str], world: World) -> Session:
    """A run taken up again. `given`: sections and keys that the user says now; keys in `allowed` may change the result.

    Errors: `UsageError` for settings that would change the result, `DataError` for data that changed,
    `CheckpointError` where every checkpoint is damaged.
    """
    before = folder.recipe()
    after = settle(before, given, allowed)
    world.agree({**spelled(after), "torch": torch.__version__})
    world.once(folder.check_writable)
    with held(folder.path, world):
        return reopened(folder, before, after, world)


def reopened(folder: RunFolder, before: Recipe, after: Recipe, world: World) -> Session:
    """The session of a run's folder that no other process works in."""
    world.once(lambda: clean_folder(folder.path))
    about = folder.about()
    dataset = reopen(folder, after, about)
    world.agree({"the data set": entries.fingerprint(dataset.entries)})
    session = build(after, dataset, folder, world)
    if list(session.described.classes) != about["classes"]:
        raise DataError("the classes are not those that the run began with", "start a new run, or restore them")
    frechet.check(after, session.described.task)
    lay_up(session)
    if after.input.vae != before.input.vae:
        world.once(lambda: folder.describe(dataclasses.replace(before, input=after.input), about))
    session.changed = tuple(c for c in changes(before, after) if not same_place(c))
    saved, damaged = world.once(lambda: checkpoint.newest(folder.checkpoints))
    session.notes = session.notes[len(dataset.notes) :]  # those of the data set were told when the run began
    session.notes += [f"passed over: {reason}" for reason in damaged] + [f"{c.key}: {c.old} -> {c.new}" for c in session.changed]
    if saved:
        session.state.load(saved.parts, saved.numbers)
    if session.state.step > session.steps:
        raise UsageError(f"the run has done {session.state.step} steps, more than plan.steps = {session.steps}", "ask for more steps")
    return session


def record(session: Session) -> None:
    """Keeps what was allowed to change in the run's folder, so that the next resume goes on with it."""
    about, at = session.folder.about(), session.state.step
    about["changed"] = [*about.get("changed", []), *({"step": at, **c._asdict()} for c in session.changed)]
    session.folder.describe(session.recipe, about)


def settle(before: Recipe, given: list[tuple[str, dict[str, Any]]], allowed: list[str]) -> Recipe:
    """The old recipe with what may change changed. Errors: `UsageError` that lists what may not."""
    after = before
    for section, values in given:
        after = override(after, section, values)
    check_keep(after)
    check_keys(before, allowed)
    if after.input.vae is not None:
        after = dataclasses.replace(after, input=dataclasses.replace(after.input, vae=str(place(after.input.vae).absolute())))
    found = [c for c in changes(before, after) if not same_place(c)]
    found.sort(key=lambda c: not c.key.endswith(".name"))  # another model loses all keys of the old one: its name says more
    refused = [c for c in found if c.key not in allowed]
    if refused:
        lines = "; ".join(f"{c.key}: {c.old} -> {c.new}" for c in refused[:4])
        keys = " ".join(f"--allow-change {c.key}" for c in refused[:3])
        raise UsageError(f"that would change the result of the run: {lines}", f"leave it out, start a new run, or {keys}")
    if not found:
        return dataclasses.replace(before, machine=after.machine, input=after.input)
    return after


def same_place(change: Change) -> bool:
    """Whether the data lies where it did, said in another way. An autoencoder may be moved: its hash says whether it is the same."""
    both = change.new is not None and change.old is not None
    return (change.key == "data.path" and str(Path(str(change.new)).absolute()) == str(change.old)) or (change.key == "input.vae" and both)


def reopen(folder: RunFolder, recipe: Recipe, about: dict[str, Any]) -> Dataset:
    """The data set of a run, as it was. Errors: `DataError` that names the first differences."""
    dataset, _ = open_data(recipe.data)
    if recipe.plan.fingerprint == "content":
        if survey(dataset).content != about["data"]["content"]:
            raise DataError(
                "the pictures are not those that the run began with (their content differs)", "start a new run, or restore them"
            )
    else:
        found = entries.differences(entries.read_entries(folder.entries), dataset.entries)
        if found:
            raise DataError(f"the data set changed since the run began: {'; '.join(found)}"[:400],
                            "start a new run; if only dates changed, new runs with --plan.fingerprint content do not mind")  # fmt: skip
    return sampled(without(dataset, about["data"]["left_out"]), recipe)
