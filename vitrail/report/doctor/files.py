"""The files of a run folder beside the log: damage, changes of the data, free disk space, the running process."""

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrail.assembly.lock import lock_holder
from vitrail.data import fingerprint
from vitrail.data.dataset import Entry
from vitrail.engine import checkpoint
from vitrail.errors import CheckpointError, DataError
from vitrail.report.run_data import RunData
from vitrail.storage.tensors import unpack


@dataclass(frozen=True)
class RunFiles:
    """The state of the files of a run.

    checkpoints, best: names, each with its fault or "", the newest first; weights: the fault of the final weights;
    divergences: the records of non-finite values, by step; changed: differences of the data set since the run;
    unlisted: why these cannot be determined; worker: the process that holds the folder's lock; free, need: bytes free
    on the disk, and of the newest checkpoint.
    """

    checkpoints: tuple[tuple[str, str], ...] = ()
    best: tuple[tuple[str, str], ...] = ()
    weights: str = ""
    divergences: tuple[dict[str, Any], ...] = ()
    changed: tuple[str, ...] = ()
    unlisted: str = ""
    worker: str = ""
    free: int = 2**40
    need: int = 0

    @property
    def newest(self) -> str:
        """The checkpoint that the run would resume from, "" where there is none."""
        return next((name for name, fault in self.checkpoints if not fault), "")


def read_files(run: RunData) -> RunFiles:
    """Reads every file that a run depends on; changes nothing."""
    folder = run.folder
    saved = checkpoint.list_checkpoints(folder.checkpoints)
    best = sorted(folder.best.glob("step-*.safetensors"), reverse=True)
    differences, unlisted = data_changes(run)
    return RunFiles(
        checkpoints=tuple((path.name, checkpoint_fault(path)) for path in saved),
        best=tuple((path.name, file_fault(path)) for path in best),
        weights=file_fault(folder.weights) if run.is_finished else "",
        divergences=tuple(sorted(divergences(folder.divergence), key=lambda facts: facts["step"])),
        changed=differences,
        unlisted=unlisted,
        worker=lock_holder(folder.path),
        free=shutil.disk_usage(folder.path).free,
        need=sum(path.stat().st_size for path in saved[0].iterdir()) if saved else 0,
    )


def checkpoint_fault(path: Path) -> str:
    try:
        checkpoint.load(path)
        return ""
    except CheckpointError as error:
        return error.what


def file_fault(path: Path) -> str:
    try:
        unpack(path)
        return ""
    except CheckpointError as error:
        return error.what


def divergences(folder: Path) -> Iterator[dict[str, Any]]:
    for path in folder.glob("step-*.json"):
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(facts, dict) and isinstance(facts.get("step"), int):
            yield facts


def data_changes(run: RunData) -> tuple[tuple[str, ...], str]:
    """Differences of the data files, or why they cannot be determined. With content hashes, file times are ignored."""
    if run.dataset is None:
        return (), ""
    try:
        before, after = fingerprint.read_entries(run.folder.entries), tuple(run.dataset.entries)
    except DataError as error:
        return (), error.what
    if run.recipe.data.fingerprint == "content":
        before, after = without_times(before), without_times(after)
    classes = run.dataset.classes
    same = list(run.task.output_names(classes)) == run.classes
    others = () if same else (f"the classes are {', '.join(classes[:8])}",)
    return (*fingerprint.differences(before, after), *others), ""


def without_times(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    return tuple(entry._replace(modified=0) for entry in entries)
