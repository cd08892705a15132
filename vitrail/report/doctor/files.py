"""What lies in the folder of a run beside the log: whether files are whole, the data as it was, the disk full, somebody at work."""

import json
import shutil
from collections.abc import Iterator
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
    """checkpoints, best: names with what is wrong with each, "" where nothing is, the newest first; weights: the same of the finished
    weights; divergences: what was found where a number was not finite, by step; changed: how the data set differs from what it was;
    unlisted: why that cannot be known; worker: who works in the folder now; free, need: bytes of the disk, and of the newest
    checkpoint."""

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
        """The checkpoint that a run would go on from, "" where there is none."""
        return next((name for name, fault in self.checkpoints if not fault), "")


def read_files(known: RunData) -> RunFiles:
    """Reads every file that a run depends on, and changes nothing."""
    folder = known.folder
    saved = checkpoint.list_checkpoints(folder.checkpoints)
    best = sorted(folder.best.glob("step-*.safetensors"), reverse=True)
    differences, unlisted = changed(known)
    return RunFiles(
        checkpoints=tuple((path.name, broken_checkpoint(path)) for path in saved),
        best=tuple((path.name, broken_file(path)) for path in best),
        weights=broken_file(folder.weights) if known.is_finished else "",
        divergences=tuple(sorted(divergences(folder.divergence), key=lambda facts: facts["step"])),
        changed=differences,
        unlisted=unlisted,
        worker=lock_holder(folder.path),
        free=shutil.disk_usage(folder.path).free,
        need=sum(path.stat().st_size for path in saved[0].iterdir()) if saved else 0,
    )


def broken_checkpoint(path: Path) -> str:
    try:
        checkpoint.load(path)
        return ""
    except CheckpointError as error:
        return error.what


def broken_file(path: Path) -> str:
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


def changed(known: RunData) -> tuple[tuple[str, ...], str]:
    """How the files of the data set differ, or why that cannot be known. Where contents count, times of change are not looked at."""
    if known.dataset is None:
        return (), ""
    try:
        before, after = fingerprint.read_entries(known.folder.entries), known.dataset.entries
    except DataError as error:
        return (), error.what
    if known.recipe.data.fingerprint == "content":
        before, after = untimed(before), untimed(after)
    others = (
        ()
        if list(known.dataset.classes) == known.classes
        else (f"the classes are {', '.join(known.dataset.classes[:8])}",)
    )
    return (*fingerprint.differences(before, after), *others), ""


def untimed(entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
    return tuple(entry._replace(modified=0) for entry in entries)
