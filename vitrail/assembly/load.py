"""A trained model from a run, a model folder, a checkpoint or a file."""

import dataclasses
from pathlib import Path

from torch import Tensor

from vitrail.assembly import model, run_directory
from vitrail.assembly.model import Described
from vitrail.assembly.run_directory import RunFolder
from vitrail.engine import checkpoint
from vitrail.engine.checkpoint import Saved
from vitrail.errors import CheckpointError
from vitrail.validation import place


def found(source: str | Path, average: int = 1) -> tuple[Described, Path]:
    """A model, and where it lay: from a run (its folder, or its name under runs/), a model folder, a checkpoint or a .safetensors file.

    A run that is not finished gives its newest sound checkpoint. average: 2 for the second average of a run. Errors: `CheckpointError`.
    """
    if average == 2:
        return second(run_directory.find(source))
    path = place(source)
    if path.is_file():
        return model.restore(path), path
    if path.is_dir() and (path / "model.safetensors").is_file() and not (path / "state.json").is_file():
        described = model.restore(path / "model.safetensors")
        if RunFolder(path).is_run:
            described = Described(described.model, described.task, RunFolder(path).recipe(), described.classes)
        return described, path
    run = run_directory.find(source)
    if run.weights.is_file() and not (path / "state.json").is_file():
        return found(run.weights.parent)
    saved = checkpoint.load(path) if (path / "state.json").is_file() else checkpoint.newest(run.checkpoints)[0]
    if saved is None:
        raise CheckpointError(f"{run.path} has no weights yet", f"vitrail train --resume {run.path} goes on with it")
    return revived(run, saved, saved.parts.get("ema", saved.parts["model"])), saved.path


def second(run: RunFolder) -> tuple[Described, Path]:
    """By the second average of a run. Errors: `CheckpointError` where it keeps none."""
    if run.second.is_file():
        return dataclasses.replace(model.restore(run.second), recipe=run.recipe()), run.second
    saved = checkpoint.newest(run.checkpoints)[0]
    if saved is None or "ema2" not in saved.parts:
        raise CheckpointError(f"{run.path} keeps no second average of its weights", "leave --ema out; optim.ema2 keeps one from the start")
    return revived(run, saved, saved.parts["ema2"]), saved.path


def revived(run: RunFolder, saved: Saved, tensors: dict[str, Tensor]) -> Described:
    """The model of a run with weights of one of its checkpoints. Errors: `CheckpointError`."""
    about = run.about()
    described = model.assemble(run.recipe(), tuple(about["classes"]), about["multi_label"])
    try:
        described.model.load_state_dict(tensors)
    except (RuntimeError, KeyError) as error:
        raise CheckpointError(
            f"{saved.path} does not fit its recipe ({' '.join(str(error).split())[:200]})", "was recipe.toml edited?"
        ) from None
    return described
