"""A run taken up again where its newest sound checkpoint stands, and what may have changed since."""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from vitrail.assembly.checks import check_keep, check_keys
from vitrail.assembly.data import drop_images, open_data, with_fraction
from vitrail.assembly.lock import hold_lock
from vitrail.assembly.run_directory import RunFolder
from vitrail.data import fingerprint as entries
from vitrail.data.dataset import Dataset
from vitrail.data.survey.images import survey_images
from vitrail.engine import checkpoint
from vitrail.engine.world import World
from vitrail.errors import DataError, UsageError
from vitrail.evaluation.generation import frechet
from vitrail.recipe import Change, Recipe, changes, override
from vitrail.storage.atomic import clean_folder
from vitrail.training.session import Session, build, cache_latents, resolve_paths
from vitrail.validation import as_path


def resume_session(
    folder: RunFolder, given: list[tuple[str, dict[str, Any]]], allowed: list[str], world: World
) -> Session:
    """A run taken up again. `given`: sections and keys that the user says now; keys in `allowed` may change the result.

    Errors: `UsageError` for settings that would change the result, `DataError` for data that changed,
    `CheckpointError` where every checkpoint is damaged.
    """
    before = folder.recipe()
    after = settle(before, given, allowed)
    world.assert_equal_across_ranks({**resolve_paths(after), "torch": torch.__version__})
    world.on_rank_zero(folder.check_writable)
    with hold_lock(folder.path, world):
        return reopened(folder, before, after, world)


def reopened(folder: RunFolder, before: Recipe, after: Recipe, world: World) -> Session:
    """The session of a run's folder that no other process works in."""
    world.on_rank_zero(lambda: clean_folder(folder.path))
    about = folder.about()
    dataset = reopen(folder, after, about)
    world.assert_equal_across_ranks({"the data set": entries.fingerprint(dataset.entries)})
    session = build(after, dataset, folder, world)
    if list(session.bundle.classes) != about["classes"]:
        raise DataError("the classes are not those that the run began with", "start a new run, or restore them")
    frechet.load_classifier(after, session.bundle.task)
    cache_latents(session)
    if after.input.vae != before.input.vae:
        world.on_rank_zero(lambda: folder.describe(dataclasses.replace(before, input=after.input), about))
    session.changed = tuple(c for c in changes(before, after) if not is_same_path(c))
    saved, damaged = world.on_rank_zero(lambda: checkpoint.load_newest(folder.checkpoints))
    session.notes = session.notes[len(dataset.notes) :]  # those of the data set were told when the run began
    session.notes += [f"passed over: {reason}" for reason in damaged] + [
        f"{c.key}: {c.old} -> {c.new}" for c in session.changed
    ]
    if saved:
        session.state.load(saved.parts, saved.numbers)
    if session.state.step > session.steps:
        raise UsageError(
            f"the run has done {session.state.step} steps, more than train.steps = {session.steps}",
            "ask for more steps",
        )
    return session


def record_changes(session: Session) -> None:
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
        after = dataclasses.replace(
            after, input=dataclasses.replace(after.input, vae=str(as_path(after.input.vae).absolute()))
        )
    found = [c for c in changes(before, after) if not is_same_path(c)]
    found.sort(
        key=lambda c: not c.key.endswith(".name")
    )  # another model loses all keys of the old one: its name says more
    refused = [c for c in found if c.key not in allowed]
    if refused:
        lines = "; ".join(f"{c.key}: {c.old} -> {c.new}" for c in refused[:4])
        keys = " ".join(f"--allow-change {c.key}" for c in refused[:3])
        raise UsageError(
            f"that would change the result of the run: {lines}", f"leave it out, start a new run, or {keys}"
        )
    if not found:
        return dataclasses.replace(before, runtime=after.runtime, input=after.input)
    return after


def is_same_path(change: Change) -> bool:
    """Whether the data lies where it did, said in another way. An autoencoder may be moved: its hash says whether it is the same."""
    both = change.new is not None and change.old is not None
    return (change.key == "data.path" and str(Path(str(change.new)).absolute()) == str(change.old)) or (
        change.key == "input.vae" and both
    )


def reopen(folder: RunFolder, recipe: Recipe, about: dict[str, Any]) -> Dataset:
    """The data set of a run, as it was. Errors: `DataError` that names the first differences."""
    dataset, _ = open_data(recipe.data)
    if recipe.data.fingerprint == "content":
        if survey_images(dataset).content != about["data"]["content"]:
            raise DataError(
                "the images are not those that the run began with (their content differs)",
                "start a new run, or restore them",
            )
    else:
        found = entries.differences(entries.read_entries(folder.entries), dataset.entries)
        if found:
            raise DataError(f"the data set changed since the run began: {'; '.join(found)}"[:400],
                            "start a new run; if only dates changed, new runs with --data.fingerprint content do not mind")  # fmt: skip
    return with_fraction(drop_images(dataset, about["data"]["left_out"]), recipe)
