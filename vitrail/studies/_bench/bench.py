"""Runs the rows of a study one after another, writes each to the journal at once, and resumes an interrupted study.

study.json     what every number depends on: study, settings, data, versions, device, threads; and the command
journal.jsonl  a line for each finished row, on the disk before the next one starts
results.json   and the other files of the study, once every row is finished; manifest.json last
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Gt, Le

from vitrail import catalog
from vitrail.assembly import run_directory
from vitrail.assembly.lock import hold_lock
from vitrail.assembly.prepare import PreparedRun, prepare_run
from vitrail.data.fingerprint import fingerprint
from vitrail.engine.processes.world import World
from vitrail.errors import CheckpointError, DataError, RunError, UsageError
from vitrail.recipe import Recipe
from vitrail.storage import journal
from vitrail.storage.atomic import MANIFEST, clean_folder, manifest, write_file
from vitrail.storage.json_text import to_json
from vitrail.validation import as_path, check_fields, update_config
from vitrail.version import versions

HEAD, JOURNAL = "study.json", "journal.jsonl"
Threads = Annotated[int, Gt(0), Le(4096)]
KEYS = ("study", "command", "config", "versions", "data", "device", "threads")
FIXED = ("vitrail", "torch")  # versions that a number may depend on


@dataclass(frozen=True)
class Job:
    """A row with one seed. weight: its relative run time."""

    row: str
    seed: int = 0
    weight: float = 1.0


@dataclass(frozen=True)
class FinishedJob:
    """A row that was just measured or read from the journal. left: estimated seconds for the other rows, or None."""

    job: Job
    line: str
    number: int
    of: int
    left: float | None


class Bench:
    """The folder of a running study, locked while it is open. head: the content of study.json.

    A new folder is created when the first row is measured, so that an error before leaves nothing behind.
    """

    def __init__(
        self, path: Path, head: dict[str, Any], world: World, show: Callable[[FinishedJob], None], exists: bool = False
    ):
        self.path, self.head, self.world, self.show = path, head, world, show
        self.is_existing = exists
        self.data = ""  # hash of the content of the data
        self.open = False
        self.finished: dict[tuple[str, int], Any] = {}
        self.lock = ExitStack()

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, *error: object) -> None:
        self.lock.close()

    def prepare(self, recipe: Recipe) -> PreparedRun:
        """Opens the data of the study; the journal is valid for its content only. Errors: those of preparing a run."""
        prepared = prepare_run(recipe, self.world)
        self.data = prepared.survey.content or fingerprint(prepared.dataset.entries)
        return prepared

    def begin(self) -> None:
        """Opens the folder. Errors: `DataError` (other data, an unwritable folder), `RunError`, `CheckpointError`."""
        if self.is_existing and self.head["data"] != self.data:
            raise DataError(
                f"the images are not those that {self.path} was started with", "restore them, or start a new study"
            )
        self.head["data"] = self.data
        try:
            self.path.mkdir(parents=True, exist_ok=self.is_existing)
            self.lock.enter_context(hold_lock(self.path, self.world))
            clean_folder(self.path)
            if not self.is_existing:
                write_file(self.path / HEAD, resolve_head(self.head))
            self.finished = self.read_journal()
        except OSError as error:
            raise run_directory.unwritable_error(self.path, error) from None
        self.open = True

    def read_journal(self) -> dict[tuple[str, int], Any]:
        """The finished rows; an incomplete last line is cut off. Errors: `CheckpointError` for another study."""
        lines, size = journal.read(self.path / JOURNAL)
        journal.trim(self.path / JOURNAL, size)
        mine = hashlib.sha256(resolve_head(self.head)).hexdigest()
        if not lines:
            journal.add(self.path / JOURNAL, {"study": mine})
        elif lines[0].get("study") != mine:
            raise CheckpointError(
                f"{self.path / HEAD} was changed after the study began: its rows belong to other settings",
                "restore it, or start a new study",
            )
        return {(line["row"], line["seed"]): line["value"] for line in lines[1:]}

    def measure(self, jobs: Sequence[Job], work: Callable[[Job], Any], line: Callable[[Job, Any], str]) -> list[Any]:
        """The results of `work` for each job, in order, read from the journal where they are there.

        `work` depends on the job alone and returns JSON data. line: the summary of a result, for people.
        """
        if not self.open:
            self.begin()
        pending = sum(job.weight for job in jobs if (job.row, job.seed) not in self.finished)
        results, elapsed, weight_done = [], 0.0, 0.0
        for number, job in enumerate(jobs, 1):
            key = (job.row, job.seed)
            if key not in self.finished:
                start = time.monotonic()
                self.record(key, work(job), start)
                elapsed += time.monotonic() - start
                weight_done += job.weight
            left = elapsed / weight_done * (pending - weight_done) if weight_done else None
            self.show(FinishedJob(job, line(job, self.finished[key]), number, len(jobs), left))
            results.append(self.finished[key])
        return results

    def record(self, key: tuple[str, int], value: Any, start: float) -> None:
        """Appends a result to the journal, and keeps it as JSON reads it. Errors: `RunError` if this fails."""
        row, seed = key
        try:
            seconds = round(time.monotonic() - start, 3)
            journal.add(self.path / JOURNAL, {"row": row, "seed": seed, "value": value, "seconds": seconds})
        except OSError as error:
            raise RunError(
                f"{self.path / JOURNAL} cannot be written: {error.strerror or error}",
                f"then {resume_command(self.path)}",
            ) from None
        self.finished[key] = json.loads(to_json(value))

    def finish(self, files: dict[str, bytes]) -> None:
        """Writes the result files; the manifest last. Errors: `DataError`."""
        try:
            for name, content in files.items():
                write_file(self.path / name, content)
            existing = {name: (self.path / name).read_bytes() for name in (HEAD, JOURNAL)}
            write_file(self.path / MANIFEST, manifest({**existing, **files}))
        except OSError as error:
            raise run_directory.unwritable_error(self.path, error) from None

    def seconds(self) -> float:
        """Run time of all rows, including those before an interruption."""
        return float(sum(line.get("seconds", 0.0) for line in journal.read(self.path / JOURNAL)[0]))


def group_by_row(jobs: Sequence[Job], values: Sequence[Any]) -> dict[str, list[Any]]:
    """The results of `measure` by row; for each row the seeds in order."""
    by_row: dict[str, list[Any]] = {}
    for job, value in zip(jobs, values, strict=True):
        by_row.setdefault(job.row, []).append(value)
    return by_row


def resolve_head(head: dict[str, Any]) -> bytes:
    return (to_json(head, indent=1) + "\n").encode()


def resume_command(path: Path) -> str:
    """The command that resumes a study."""
    return f"vitrail study --resume {path}"


def create_bench(name: str, config: Any, path: Path, world: World, show: Callable[[FinishedJob], None]) -> Bench:
    """The bench of a new study. Errors: `UsageError` for an existing study, `DataError` for an unwritable folder."""
    if (path / HEAD).is_file():
        raise UsageError(
            f"{path} is there already and is never overwritten",
            f"{resume_command(path)} resumes it; another --out starts a new one",
        )
    run_directory.check_writable(path)
    head = {
        "study": name, "command": run_directory.command_line(), "config": dataclasses.asdict(config),
        "versions": versions(), "data": None, "device": world.device.type, "threads": torch.get_num_threads(),
    }  # fmt: skip
    return Bench(path, json.loads(to_json(head)), world, show)


def read_head(source: str) -> tuple[Path, dict[str, Any]]:
    """The folder of a study, and its study.json. Errors: `CheckpointError`."""
    path = as_path(source)
    try:
        head = json.loads((path / HEAD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(
            f"{path} is not the folder of a study: {HEAD}: {reason}", "vitrail study NAME starts one"
        ) from None
    if not isinstance(head, dict) or tuple(head) != KEYS:
        raise CheckpointError(f"{path / HEAD} is not a valid description of a study", "start a new study")
    kinds = {
        "study": str,
        "command": list[str],
        "config": dict[str, Any],
        "versions": dict[str, Any],
        "threads": Threads,
    }
    check_fields(head, kinds, str(path / HEAD))
    return path, head


def resume_bench(source: str, world: World, show: Callable[[FinishedJob], None]) -> tuple[Bench, Any, Any]:
    """The bench of an existing study, its module, and its settings.

    Errors: `CheckpointError`, and `UsageError` for other versions of the packages that the numbers depend on.
    """
    path, head = read_head(source)
    module = catalog.load_module("studies", head["study"].replace("-", "_"))
    here = versions()
    for what in FIXED:
        if head["versions"].get(what) != here[what]:
            raise UsageError(
                f"{path} was started with {what} {head['versions'].get(what)}, and this is {here[what]}: "
                "its rows may differ",
                "start a new study",
            )
    if set(head["config"]) != {f.name for f in dataclasses.fields(module.Config)}:
        raise CheckpointError(
            f"{path / HEAD} has settings that the study {head['study']} does not have", "start a new study"
        )
    torch.set_num_threads(head["threads"])  # sums over threads differ in their last digits
    return (
        Bench(path, head, world, show, exists=True),
        module,
        update_config(module.Config(), head["config"], head["study"]),
    )
