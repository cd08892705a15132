"""Checkpoints of a run: numbered folders, each complete and verified. A damaged one is skipped with its reason, never
loaded."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vitrail.engine.processes.pieces import is_sharded, read_layout, read_whole, refuse_bad_pieces
from vitrail.errors import CheckpointError
from vitrail.storage.atomic import clean_folder, verify_folder, write_folder
from vitrail.storage.json_text import from_json, to_json
from vitrail.storage.tensors import StoredTensor, read_header, refuse_nonfinite, stream_listed, unpack_listed
from vitrail.validation import Count, check_fields

NUMBERS: dict[str, Any] = {"step": Count, "averaged": Count, "scaler": dict[str, float | int]}  # of state.json
STOPPING: dict[str, Any] = {
    "step": Count, "value": float | int | None, "evaluations_since": Count, "evaluated_step": Count,
}  # fmt: skip


@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint as read from disk. parts: empty where it is sharded and was only verified."""

    path: Path
    parts: dict[str, dict[str, Tensor]]
    numbers: dict[str, Any]


def checkpoint_name(step: int) -> str:
    return f"step-{step:08d}"


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints in a folder, newest first, valid or damaged."""
    return sorted((p for p in folder.glob("step-*") if p.is_dir()), reverse=True) if folder.is_dir() else []


def save(folder: Path, parts: dict[str, dict[str, Tensor]], numbers: dict[str, Any], keep: int = 2) -> Path:
    """Writes the checkpoint of `numbers["step"]`, then removes the oldest beyond `keep`, see `prune`.

    Errors: `OSError` of the disk, or where the folder of the run is gone; older checkpoints are kept then.
    """
    folder.mkdir(exist_ok=True)
    path = folder / checkpoint_name(numbers["step"])
    if is_there(path):
        return path
    files = {f"{name}.safetensors": stream_listed(tensors) for name, tensors in parts.items()}
    write_folder(path, {**files, "state.json": to_json(numbers, sort_keys=True).encode()})
    prune(path, keep)
    return path


def is_there(path: Path) -> bool:
    """Whether a valid checkpoint is there already; a damaged one is removed, since the same state is in memory."""
    if not path.exists():
        return False
    try:
        verify_folder(path)
        return True
    except CheckpointError:
        shutil.rmtree(path)
        return False


def prune(newest: Path, keep: int) -> None:
    """Removes the oldest checkpoints beyond `keep`, of those up to the newest only: a later one is damaged, or the run
    would have resumed from it, and must not count."""
    for old in [p for p in list_checkpoints(newest.parent) if p.name <= newest.name][max(2, keep) :]:
        shutil.rmtree(old, ignore_errors=True)


def load(path: Path, pieces: bool = True) -> SavedCheckpoint:
    """One checkpoint, verified. pieces: whether one in pieces is put together too. Errors: `CheckpointError`."""
    if not path.is_dir():
        raise CheckpointError(
            f"there is no checkpoint {path}", "give a run folder, or a step-... folder inside its checkpoints/"
        )
    verify_folder(path)
    try:
        numbers = from_json((path / "state.json").read_bytes())
        if is_sharded(path):
            return load_sharded(path, numbers, pieces)
        parts = read_parts(path, numbers)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error})", "use another checkpoint") from None
    check_content(path, parts, numbers)
    return SavedCheckpoint(path, parts, numbers)


def load_sharded(path: Path, numbers: Any, pieces: bool) -> SavedCheckpoint:
    """A checkpoint in pieces whose files are as its manifest says."""
    check_numbers(path, numbers)
    if not pieces:
        refuse_bad_pieces(path)
        return SavedCheckpoint(path, {}, numbers)
    parts = read_parts(path, numbers)
    check_content(path, parts, numbers)
    return SavedCheckpoint(path, parts, numbers)


def read_parts(path: Path, numbers: dict[str, Any]) -> dict[str, dict[str, Tensor]]:
    """The whole tensors of a checkpoint that was verified, by part and name; those of whole files as they are mapped.
    Errors: `CheckpointError`."""
    if is_sharded(path):
        return read_whole(path, numbers.get("scalars", {}))
    return {p.stem: unpack_listed(p)[0] for p in sorted(path.glob("*.safetensors"))}


def stored_model(path: Path) -> dict[str, StoredTensor]:
    """Names and shapes of the weights in a checkpoint; nothing is verified. Errors: `CheckpointError`."""
    if not is_sharded(path):
        return read_header(path / "model.safetensors").tensors
    return {name[6:]: stored for name, stored in read_layout(path).items() if name.startswith("model/")}


def check_numbers(path: Path, numbers: Any) -> None:
    """Errors: `CheckpointError` for numbers of other types than a run writes."""
    if not isinstance(numbers, dict):
        raise CheckpointError(f"{path / 'state.json'} is damaged", "use another checkpoint")
    check_fields(numbers, NUMBERS, str(path / "state.json"))
    stopping = numbers.get("early_stopping", {})
    known = {key: kind for key, kind in STOPPING.items() if key in stopping}
    if not isinstance(stopping, dict) or stopping.keys() - known:
        raise CheckpointError(f"early_stopping in {path / 'state.json'} is not valid", "use another checkpoint")
    check_fields(stopping, known, str(path / "state.json"))


def check_content(path: Path, parts: dict[str, dict[str, Tensor]], numbers: Any) -> None:
    """Errors: `CheckpointError` for numbers of other types than a run writes, for a part that is missing, and for
    weights with NaN or infinity, by their names."""
    check_numbers(path, numbers)
    if missing := {"model", "optimizer"} - parts.keys():
        raise CheckpointError(f"{path} has no {' and no '.join(sorted(missing))}", "use another checkpoint")
    for part, tensors in parts.items():
        refuse_nonfinite(tensors, path / f"{part}.safetensors")


def load_newest(folder: Path, pieces: bool = True) -> tuple[SavedCheckpoint | None, list[str]]:
    """The newest valid checkpoint, or None where there is none at all, and why newer ones were skipped. pieces: see
    `load`.

    Errors: `CheckpointError` where there are checkpoints and every one is damaged: a run never silently starts from
    scratch.
    """
    clean_folder(folder)
    reasons: list[str] = []
    for path in list_checkpoints(folder):
        try:
            return load(path, pieces), reasons
        except CheckpointError as error:
            reasons.append(error.what)
    if reasons:
        raise CheckpointError(
            f"all {len(reasons)} checkpoints are damaged; the newest: {reasons[0]}",
            "start a new run in another folder",
        )
    return None, []
