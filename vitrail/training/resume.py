"""Resumes a run from its newest valid checkpoint, and checks what has changed since."""

import dataclasses
from typing import Any

from vitrail.assembly.checks import check_keep, check_keys, check_newest_checkpoint
from vitrail.assembly.data import open_same_dataset
from vitrail.assembly.lock import hold_lock
from vitrail.assembly.run_directory import RunFolder
from vitrail.data import fingerprint as entries
from vitrail.engine.processes.restore import load_newest
from vitrail.engine.processes.world import World
from vitrail.errors import DataError, UsageError, many
from vitrail.recipe import Change, Recipe, changes, override
from vitrail.storage.atomic import clean_folder
from vitrail.training.build import build_session
from vitrail.training.create import open_parts, recipe_keys, software
from vitrail.training.session import Session
from vitrail.training.transfer.begin import begin_again, go_on
from vitrail.validation import as_path


def resume_session(
    folder: RunFolder, given: list[tuple[str, dict[str, Any]]], allowed: list[str], world: World
) -> Session:
    """A resumed run. `given`: sections and keys from the user; keys in `allowed` may change the result.

    Errors: `UsageError` for settings that would change the result, `DataError` for data that changed,
    `CheckpointError` where every checkpoint is damaged.
    """
    before = folder.recipe()
    after = merge_settings(before, given, allowed)
    world.assert_equal_across_ranks({**recipe_keys(after), **software(world)})
    world.on_rank_zero(folder.check_writable)
    with hold_lock(folder.path, world):
        return open_session(folder, before, after, world)


def open_session(folder: RunFolder, before: Recipe, after: Recipe, world: World) -> Session:
    """The session of a locked run folder."""
    world.on_rank_zero(lambda: clean_folder(folder.path))
    about = folder.about()
    check_newest_checkpoint(folder, after)
    dataset = open_same_dataset(folder, after, about)
    world.assert_equal_across_ranks({"the data set": entries.fingerprint(dataset.entries)})
    if about.get("processes") != world.size and after.runtime.threads == before.runtime.threads:
        after = dataclasses.replace(after, runtime=dataclasses.replace(after.runtime, threads=None))
    session = build_session(after, dataset, folder, world)
    if list(session.bundle.classes) != about["classes"]:
        raise DataError("the classes are not those that the run started with", "start a new run, or restore them")
    open_parts(session)
    if after.input.vae != before.input.vae:
        world.on_rank_zero(lambda: folder.describe(dataclasses.replace(before, input=after.input), about))
    session.changed = tuple(c for c in changes(before, after) if not is_same_path(c))
    whole = session.parallel.shards == 1
    saved, damaged = load_newest(folder.checkpoints, world, pieces=whole)
    session.notes = session.notes[len(dataset.notes) :]  # without those of the data set, printed when the run started
    session.notes += [f"skipped: {reason}" for reason in damaged] + [
        f"{c.key}: {c.old} -> {c.new}" for c in session.changed
    ]
    if saved:
        go_on(session, saved)
    else:  # it ended before its first checkpoint
        begin_again(session)
    if session.state.step > session.steps:
        raise UsageError(
            f"the run has done {many(session.state.step, 'step')}, more than train.steps = {session.steps}",
            "use a larger --steps",
        )
    return session


def record_changes(session: Session) -> None:
    """Saves the allowed changes in the run's folder, for the next resume."""
    about, at = session.folder.about(), session.state.step
    about["changed"] = [*about.get("changed", []), *({"step": at, **c._asdict()} for c in session.changed)]
    session.folder.describe(session.recipe, about)


def merge_settings(before: Recipe, given: list[tuple[str, dict[str, Any]]], allowed: list[str]) -> Recipe:
    """The old recipe with the given settings. Errors: `UsageError` that lists those that may not change."""
    after = before
    for section, values in given:
        after = override(after, section, values)
    check_keep(after)
    check_keys(before, allowed)
    if after.input.vae is not None:
        after = dataclasses.replace(
            after, input=dataclasses.replace(after.input, vae=as_path(after.input.vae).absolute().as_posix())
        )
    changed = [c for c in changes(before, after) if not is_same_path(c)]
    changed.sort(key=lambda c: not c.key.endswith(".name"))  # names first: another model drops all keys of the old one
    refused = [c for c in changed if c.key not in allowed]
    if refused:
        lines = "; ".join(f"{c.key}: {c.old} -> {c.new}" for c in refused[:4])
        keys = " ".join(f"--allow-change {c.key}" for c in refused[:3])
        raise UsageError(
            f"that would change the result of the run: {lines}", f"leave it out, start a new run, or {keys}"
        )
    if not changed:
        return dataclasses.replace(before, runtime=after.runtime, input=after.input)
    return after


def is_same_path(change: Change) -> bool:
    """Whether two spellings of the data path are the same. An autoencoder may be moved: its hash is checked instead."""
    both = change.new is not None and change.old is not None
    return (change.key == "data.path" and as_path(change.new).absolute() == as_path(change.old).absolute()) or (
        change.key == "input.vae" and both
    )
