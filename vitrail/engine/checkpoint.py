"""Checkpoints of a run: numbered folders, each complete and verified. A damaged one is skipped with its reason, never
loaded."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vitrail.errors import CheckpointError
from vitrail.storage.atomic import clean_folder, verify_folder, write_folder
from vitrail.storage.json_text import from_json, to_json
from vitrail.storage.tensors import refuse_nonfinite, stream_listed, unpack_listed
from vitrail.validation import Count, check_fields

NUMBERS: dict[str, Any] = {"step": Count, "averaged": Count, "scaler": dict[str, float | int]}  # of state.json
STOPPING: dict[str, Any] = {
    "step": Count, "value": float | int | None, "evaluations_since": Count, "evaluated_step": Count,
}  # fmt: skip


@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint as read from disk."""

    path: Path
    parts: dict[str, dict[str, Tensor]]
    numbers: dict[str, Any]


def checkpoint_name(step: int) -> str:
    return f"step-{step:08d}"


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints in a folder, newest first, valid or damaged."""
    return sorted((p for p in folder.glob("step-*") if p.is_dir()), reverse=True) if folder.is_dir() else []


def save(folder: Path, parts: dict[str, dict[str, Tensor]], numbers: dict[str, Any], keep: int = 2) -> Path:
    """Writes the checkpoint of `numbers["step"]`, then removes the oldest beyond `keep`, of those up to this step only:
    a later one is damaged, or the run would have resumed from it, and must not count.

    Errors: `OSError` of the disk, or where the folder of the run is gone; older checkpoints are kept then.
    """
    folder.mkdir(exist_ok=True)
    path = folder / checkpoint_name(numbers["step"])
    if path.exists():
        try:
            verify_folder(path)
            return path
        except CheckpointError:
            shutil.rmtree(path)  # a damaged one of the same step: replaced by the state in memory
    files = {f"{name}.safetensors": stream_listed(tensors) for name, tensors in parts.items()}
    write_folder(path, {**files, "state.json": to_json(numbers, sort_keys=True).encode()})
    for old in [p for p in list_checkpoints(folder) if p.name <= path.name][max(2, keep) :]:
        shutil.rmtree(old, ignore_errors=True)
    return path


def load(path: Path) -> SavedCheckpoint:
    """One checkpoint, verified. Errors: `CheckpointError`."""
    if not path.is_dir():
        raise CheckpointError(
            f"there is no checkpoint {path}", "give a run folder, or a step-... folder inside its checkpoints/"
        )
    verify_folder(path)
    try:
        numbers = from_json((path / "state.json").read_bytes())
        parts = {p.stem: unpack_listed(p)[0] for p in sorted(path.glob("*.safetensors"))}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error})", "use another checkpoint") from None
    check_content(path, parts, numbers)
    return SavedCheckpoint(path, parts, numbers)


def check_content(path: Path, parts: dict[str, dict[str, Tensor]], numbers: Any) -> None:
    """Errors: `CheckpointError` for numbers of other types than a run writes, for a part that is missing, and for
    weights with NaN or infinity, by their names."""
    if not isinstance(numbers, dict):
        raise CheckpointError(f"{path / 'state.json'} is damaged", "use another checkpoint")
    check_fields(numbers, NUMBERS, str(path / "state.json"))
    stopping = numbers.get("early_stopping", {})
    known = {key: kind for key, kind in STOPPING.items() if key in stopping}
    if not isinstance(stopping, dict) or stopping.keys() - known:
        raise CheckpointError(f"early_stopping in {path / 'state.json'} is not valid", "use another checkpoint")
    check_fields(stopping, known, str(path / "state.json"))
    if missing := {"model", "optimizer"} - parts.keys():
        raise CheckpointError(f"{path} has no {' and no '.join(sorted(missing))}", "use another checkpoint")
    for part, tensors in parts.items():
        refuse_nonfinite(tensors, path / f"{part}.safetensors")


def load_newest(folder: Path) -> tuple[SavedCheckpoint | None, list[str]]:
    """The newest valid checkpoint, or None where there is none at all, and why newer ones were skipped.

    Errors: `CheckpointError` where there are checkpoints and every one is damaged: a run never silently starts from
    scratch.
    """
    clean_folder(folder)
    reasons: list[str] = []
    for path in list_checkpoints(folder):
        try:
            return load(path), reasons
        except CheckpointError as error:
            reasons.append(error.what)
    if reasons:
        raise CheckpointError(
            f"all {len(reasons)} checkpoints are damaged; the newest: {reasons[0]}",
            "start a new run in another folder",
        )
    return None, []
