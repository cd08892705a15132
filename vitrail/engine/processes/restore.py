"""Checkpoints of several processes: found by the first and read by all, or sent to those that do not see the folder; in
pieces into a divided state, each process reading its part of every tensor."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitrail.engine import checkpoint
from vitrail.engine.checkpoint import SavedCheckpoint
from vitrail.engine.processes.pieces import read_into, read_layout, read_scalars
from vitrail.engine.processes.world import World
from vitrail.engine.state import State
from vitrail.errors import CheckpointError
from vitrail.storage.stream import TYPES
from vitrail.validation import EDITED


def load_newest(folder: Path, world: World, pieces: bool) -> tuple[SavedCheckpoint | None, list[str]]:
    """`checkpoint.load_newest` on every process: the first one verifies; where all see its folder the others map the
    files, else they are sent its tensors. Errors: `CheckpointError`."""
    own: list[SavedCheckpoint | None] = []

    def find() -> tuple[SavedCheckpoint | None, bool, list[str]]:
        saved, reasons = checkpoint.load_newest(folder, pieces)
        own.append(saved)
        return saved and replace(saved, parts={}), bool(saved and saved.parts), reasons

    saved, has_parts, reasons = world.on_rank_zero(find)
    if saved is None or not has_parts or world.size == 1:
        return own[0] if own else saved, reasons
    if all(world.gather_objects(saved.path.is_dir())):
        return own[0] if own else replace(saved, parts=checkpoint.read_parts(saved.path, saved.numbers)), reasons
    flat, _ = world.broadcast_tensors(lambda: (flatten(own[0]), None))
    return own[0] if own else replace(saved, parts=unflatten(flat)), reasons


def flatten(saved: SavedCheckpoint | None) -> dict[str, Tensor]:
    parts = saved.parts if saved else {}
    return {f"{part}/{name}": t for part, tensors in parts.items() for name, t in tensors.items()}


def unflatten(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    parts: dict[str, dict[str, Tensor]] = {}
    for key, t in tensors.items():
        part, _, name = key.partition("/")
        parts.setdefault(part, {})[name] = t
    return parts


def load_pieces(state: State, saved: SavedCheckpoint) -> None:
    """Restores everything, bit for bit, whatever the number of processes that saved it. Errors: `CheckpointError`
    where names or shapes differ."""
    layout, scalars = read_layout(saved.path), read_scalars(saved.numbers.get("scalars", {}))
    stored = {**{name: t.shape for name, t in layout.items()}, **dict.fromkeys(scalars, ())}
    dtypes = {kind: dtype for dtype, (kind, _) in TYPES.items()}
    targets = dict(weights(state))
    parameters = dict(state.model.named_parameters())
    optimizer: dict[str, Tensor] = {}
    for name in (n for n in stored if n.startswith("optimizer/")):
        parameter, _, _ = name.partition("/")[2].partition("|")
        if parameter not in parameters:
            raise misfit(f"the checkpoint's optimiser has {parameter}, the model does not")
        p = parameters[parameter].detach()
        if name in scalars:
            optimizer[name] = scalars[name].to(p.device)
        else:  # of another shape than its weight it is refused below
            optimizer[name] = torch.empty_like(p, dtype=dtypes[layout[name].dtype])
    own = {name: torch.empty(layout[name].shape, dtype=dtypes[layout[name].dtype]) for name in task_names(stored)}
    targets.update({name: t for name, t in {**optimizer, **own}.items() if name not in scalars})
    check_names(targets, stored)
    for name, value in scalars.items():
        if name in targets:
            targets.pop(name).copy_(value)
    read_into(saved.path, targets)
    state.optimizer.state.clear()
    for name, value in optimizer.items():
        parameter, _, key = name.partition("/")[2].partition("|")
        state.optimizer.state[parameters[parameter]][key] = value
    if state.task:
        more = {name: value for name, value in scalars.items() if name.startswith("task/")}
        state.task.load_state({name.removeprefix("task/"): value for name, value in {**own, **more}.items()})
    state.load_numbers(saved.numbers)


def weights(state: State) -> dict[str, Tensor]:
    """Weights and averages, to be filled in place."""
    parts = {"model": state.model, **{name: average.module for name, average in state.averages.items()}}
    return {f"{part}/{name}": t for part, model in parts.items() for name, t in model.state_dict().items()}


def task_names(stored: dict[str, Any]) -> list[str]:
    return [name for name, shape in stored.items() if name.startswith("task/") and shape != ()]


def check_names(targets: dict[str, Tensor], stored: dict[str, Any]) -> None:
    """Errors: `CheckpointError` for the first weight that only one of model and checkpoint has, or of another shape."""
    for name, t in targets.items():
        if name not in stored:
            raise misfit(f"it has no {name.partition('/')[2]}")
        if tuple(stored[name]) != tuple(t.shape):
            raise misfit(f"{name.partition('/')[2]} is {list(stored[name])} and should be {list(t.shape)}")
    for name in stored:
        if name.startswith("model/") and name not in targets:
            raise misfit(f"the model has no {name.partition('/')[2]}")


def misfit(what: str) -> CheckpointError:
    return CheckpointError(f"the checkpoint does not fit the model: {what}", EDITED)
