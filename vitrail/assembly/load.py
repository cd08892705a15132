"""A trained model from a run, a model folder, a checkpoint or a file."""

import dataclasses
from pathlib import Path
from typing import Literal

from torch import Tensor

from vitrail.assembly import run_directory
from vitrail.assembly.model import ModelBundle
from vitrail.assembly.restore import (
    Description,
    build,
    check_fits,
    read_origin,
    restore_bundle,
    stored_tensors,
)
from vitrail.assembly.run_directory import RunFolder
from vitrail.engine import checkpoint
from vitrail.engine.checkpoint import SavedCheckpoint
from vitrail.errors import CheckpointError, UsageError
from vitrail.recipe import Recipe
from vitrail.storage.atomic import MANIFEST
from vitrail.storage.hashing import hash_file
from vitrail.storage.printable import shell_word
from vitrail.storage.tensors import read_about, read_header
from vitrail.validation import as_path
from vitrail.weights.locate import locate
from vitrail.weights.remote.names import parse_name
from vitrail.weights.remote.table import find_row


def load_bundle(
    source: str | Path, average: int = 1, weights: Literal["best", "last"] = "best"
) -> tuple[ModelBundle, Path]:
    """A model, and its path: from a run (its folder, or its name under runs/), a model folder, a checkpoint, a
    .safetensors file, or what `vitrail push` published (hf:ORG/REPO).

    weights: of a run, those of its best evaluation, if it kept any, or the last: of an unfinished run, those of its
    newest valid checkpoint. average: 2 for the second average of a run. Errors: `CheckpointError`.
    """
    source = fetch_typed(source)
    if average == 2:
        return load_ema2(run_directory.find_run(source))
    path = as_path(source)
    if path.is_file():
        return restore_bundle(path), path
    if (run := own_run(source)) is not None:
        if weights == "best" and run.best_weights is not None:
            return load_best(run, run.best_weights)
        if weights == "last" and run.recipe().train.patience and checkpoint.list_checkpoints(run.checkpoints):
            return load_checkpoint(run, run.checkpoints)
    if path.is_dir() and (path / "model.safetensors").is_file() and not (path / "state.json").is_file():
        bundle = restore_bundle(path / "model.safetensors")
        return (with_run(bundle, RunFolder(path)) if RunFolder(path).is_run else bundle), path
    run = run_directory.find_run(source)
    if run.weights.is_file() and not (path / "state.json").is_file():
        return load_bundle(run.weights.parent, weights=weights)
    return load_checkpoint(run, path)


def hash_weights(path: Path) -> str:
    """The SHA-256 of the weights in a file, a model folder or a checkpoint. Errors: `CheckpointError`."""
    name = "ema.safetensors" if (path / "ema.safetensors").is_file() else "model.safetensors"
    file = path if path.is_file() else path / name
    if path.is_dir() and not file.is_file() and (path / MANIFEST).is_file():  # in pieces: it has the hash of each
        file = path / MANIFEST
    try:
        return hash_file(file)
    except OSError as error:
        what = f"{file} cannot be read: {error.strerror or error}"
        raise CheckpointError(what, "is it the folder of a model?") from None


def fetch_typed(source: str | Path) -> str | Path:
    """The file of a model that vitrail published, where a repository of the hub or an address was typed; other names
    as they are. Errors: as `locate`; `CheckpointError` for weights that vitrail did not write."""
    if not isinstance(source, str):
        return source
    if find_row(source) is not None and not Path(source).exists():
        raise foreign_error(source)
    if not source.startswith(("hf:", "https://", "timm:", "torchvision:")):
        return source
    reference = parse_name(source)
    if reference.row is not None or source.startswith(("timm:", "torchvision:")):
        raise foreign_error(source)  # before anything is fetched
    try:
        path = locate(source).files
    except UsageError as error:
        fix = f"vitrail fetch {source} {error.fix}" if error.fix.startswith("--accept-licence") else error.fix
        raise UsageError(error.what, fix) from None
    if path.suffix != ".safetensors" or not read_about(read_header(path), path):
        raise foreign_error(source)
    return path


def foreign_error(source: str) -> CheckpointError:
    """Published weights where a trained model is wanted."""
    name = shell_word(source)
    return CheckpointError(
        f"{source} are weights of another library, and no model that vitrail saved",
        f"vitrail import {name} --out FOLDER makes one; or to train: vitrail train --data FOLDER --weights {name}",
    )


def own_run(source: str | Path) -> RunFolder | None:
    """The run that a source names as a whole; None for a model folder or one checkpoint of it."""
    path = as_path(source)
    is_model = (path / "model.safetensors").is_file() and not RunFolder(path).is_run
    try:
        return None if is_model or (path / "state.json").is_file() else run_directory.find_run(source)
    except CheckpointError:
        return None


def load_best(run: RunFolder, path: Path) -> tuple[ModelBundle, Path]:
    """The model of a run with its best weights. Errors: `CheckpointError`."""
    try:
        return with_run(restore_bundle(path), run), path
    except CheckpointError as error:
        what = f"the best weights cannot be read: {error.what}"
        raise CheckpointError(what, f"{error.fix}; --checkpoint last uses the last weights") from None


def load_checkpoint(run: RunFolder, path: Path) -> tuple[ModelBundle, Path]:
    """The model of a run with the weights of one checkpoint, or else of the newest. Errors: `CheckpointError`."""
    saved = checkpoint.load(path) if (path / "state.json").is_file() else checkpoint.load_newest(run.checkpoints)[0]
    if saved is None:
        raise CheckpointError(f"{run.path} has no weights yet", f"vitrail train --resume {run.path} continues it")
    return rebuild_bundle(run, saved, saved.parts.get("ema", saved.parts["model"])), saved.path


def load_ema2(run: RunFolder) -> tuple[ModelBundle, Path]:
    """The model of a run with its second average. Errors: `CheckpointError` where it has none."""
    if run.ema2.is_file():
        return with_run(restore_bundle(run.ema2), run), run.ema2
    saved = checkpoint.load_newest(run.checkpoints)[0]
    if saved is None or "ema2" not in saved.parts:
        raise CheckpointError(
            f"{run.path} has no second average of its weights",
            "leave --ema out; train with --optim.ema-decay-2 0.999 to have one",
        )
    return rebuild_bundle(run, saved, saved.parts["ema2"]), saved.path


def with_run(bundle: ModelBundle, run: RunFolder) -> ModelBundle:
    """The bundle with the recipe of its run, which has what no weights file has, such as paths. What the weights depend
    on is that of the file."""
    recipe, own = run.recipe(), bundle.recipe
    given = dataclasses.replace(own.input, vae=recipe.input.vae)
    return dataclasses.replace(bundle, recipe=dataclasses.replace(recipe, model=own.model, input=given))


def rebuild_bundle(run: RunFolder, saved: SavedCheckpoint, tensors: dict[str, Tensor]) -> ModelBundle:
    """The model of a run with weights of one of its checkpoints. Errors: `CheckpointError`."""
    description = describe_run(run, run.recipe())
    check_fits(description, stored_tensors(tensors), saved.path)
    return build(description, tensors, saved.path)


def describe_run(run: RunFolder, recipe: Recipe) -> Description:
    """The model of a run with such a recipe, as its folder describes it."""
    about = run.about()
    return Description(recipe, tuple(about["classes"]), about["multi_label"], read_origin(about.get("origin")))
