"""Creates a run from a recipe: its folder, latents and initial weights."""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from vitrail.assembly import latents, model
from vitrail.assembly.prepare import PreparedRun, Progress, prepare_run
from vitrail.assembly.run_directory import RunFolder, command_line, new_run_path
from vitrail.data import fingerprint as entries
from vitrail.data.splits import evaluation_part
from vitrail.engine.processes.world import World
from vitrail.evaluation.generation import frechet
from vitrail.recipe import Recipe, to_tables
from vitrail.training.build import build_session
from vitrail.training.processes.division import divide_session
from vitrail.training.restart import launchers
from vitrail.training.session import Session
from vitrail.training.transfer.begin import begin, keep_features, plan
from vitrail.version import __version__, versions


def create_session(
    recipe: Recipe, out: Path | None, world: World, progress: Progress | None = None, command: list[str] | None = None
) -> tuple[Session, PreparedRun]:
    """A new run and its folder: by default a new one under runs/, named after data and model. command: the words that
    it keeps of how it was started, by default those of this process.

    Errors: `UsageError`, `DataError`; they leave no folder behind.
    """
    world.assert_equal_across_ranks({**recipe_keys(recipe), **software(world), "out": str(out)})
    prepared = prepare_run(recipe, world, progress)
    world.assert_equal_across_ranks({"the data set": entries.fingerprint(prepared.dataset.entries)})
    data, name = prepared.recipe.data, prepared.recipe.model.name
    path = out or world.on_rank_zero(lambda: new_run_path(str(data.keys.get("path") or data.name), name))
    session = build_session(prepared.recipe, prepared.dataset, RunFolder(path), world, prepared.names)
    open_parts(session, progress)
    begin(session, prepared.origin, progress)
    keep_micro_batch(session)
    launch = launchers(world)
    start = {"command": command or command_line(), "launch": launch, "request": to_tables(recipe)}
    world.on_rank_zero(lambda: create_folder(session, prepared, start))
    keep_features(session)
    divide_session(session)
    session.notes += prepared.notes
    return session, prepared


def plan_session(
    recipe: Recipe, out: Path | None, world: World, progress: Progress | None = None
) -> tuple[Session, PreparedRun, str]:
    """The session that `create_session` would make, without a folder, latents or a check of other processes, and what
    it will need. Errors: those of `create_session`, and `DataError` where the disk is too small."""
    prepared = prepare_run(recipe, world, progress)
    folder = RunFolder(out or Path("runs"))
    session = build_session(prepared.recipe, prepared.dataset, folder, world, prepared.names)
    return session, prepared, plan(session, prepared.origin)


def open_parts(session: Session, progress: Progress | None = None) -> None:
    """What a run has beside model and data: the classifier of a Fréchet distance, and latents."""
    frechet.load_classifier(session.recipe, session.bundle.task)
    cache_latents(session, progress)


def cache_latents(session: Session, progress: Progress | None = None) -> None:
    """Replaces the images of the training and evaluation splits by latents, where the recipe has an autoencoder."""
    if session.recipe.input.vae is None:
        return
    dataset = session.dataset
    parts = list(dict.fromkeys(["train", evaluation_part(dataset, final=False), evaluation_part(dataset, final=True)]))
    session.shown = dataset
    session.dataset, notes = latents.with_cached_latents(
        dataset, session.recipe, parts, session.folder.path, session.world, progress
    )
    session.notes += notes


def recipe_keys(recipe: Recipe) -> dict[str, Any]:
    """Every key of a recipe by its full name."""
    return {f"{section}.{key}": value for section, table in to_tables(recipe).items() for key, value in table.items()}


def keep_micro_batch(session: Session) -> None:
    """Fixes the micro-batches of several processes, so that fewer of them, after a machine is lost, take more of the
    same: neither the memory of a step nor its random numbers change."""
    recipe = session.recipe
    if session.world.size > 1 and recipe.runtime.micro_batch is None:
        runtime = dataclasses.replace(recipe.runtime, micro_batch=session.feed.micro_batch)
        session.recipe = dataclasses.replace(recipe, runtime=runtime)


def software(world: World) -> dict[str, Any]:
    """What all processes of a run must have the same, beside the recipe."""
    return {"vitrail": __version__, "torch": torch.__version__, "the kind of device": world.device.type}


def create_folder(session: Session, prepared: PreparedRun, start: dict[str, Any]) -> None:
    """start: how the run was started, for its record."""
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
        "data": {
            "layout": dataset.layout,
            "parts": {name: len(split) for name, split in dataset.splits.items()},
            "channels": dataset.channels,
            "content": prepared.survey.content,
            "files": entries.fingerprint(dataset.entries),
            "left_out": prepared.left_out,
        },
        "versions": versions(),
        "weights": session.load_report.lines() if session.load_report else [],
        "origin": dict(session.bundle.origin),
        "processes": session.world.size,
        "parameters": sum(p.numel() for p in session.bundle.model.parameters()),
        **start,
    }
    session.folder.create(session.recipe, about, dataset.entries)
