"""The bench that a study works at: its rows are measured one after another, each is written down at once, and what was broken off is
taken up where it stood.

study.json     what every number depends on: the study, its settings, the data, versions, device, threads; and the command
journal.jsonl  a line for each measured row, on the disk before the next is begun
results.json   and whatever else the study tells, when every row is measured; manifest.json closes the folder
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vitrail import catalog
from vitrail.assembly import run_directory
from vitrail.assembly.lock import hold_lock
from vitrail.assembly.prepare import PreparedRun, prepare_run
from vitrail.engine.world import World
from vitrail.errors import CheckpointError, DataError, RunError, UsageError
from vitrail.recipe import Recipe
from vitrail.storage import journal
from vitrail.storage.atomic import MANIFEST, clean_folder, manifest, write_file
from vitrail.validation import as_path, update_config
from vitrail.version import versions

HEAD, JOURNAL = "study.json", "journal.jsonl"
KEYS = ("study", "command", "config", "versions", "data", "device", "threads")
FIXED = ("vitrail", "torch")  # versions that a number may depend on


@dataclass(frozen=True)
class Job:
    """A row to be measured with one seed. weight: how long it takes, against the others."""

    row: str
    seed: int = 0
    weight: float = 1.0


@dataclass(frozen=True)
class FinishedJob:
    """A row that was measured just now, or found in the journal. left: seconds that the others will still take, None where unknown."""

    job: Job
    line: str
    number: int
    of: int
    left: float | None


class Bench:
    """Holds the folder of a study while it is open. `head` is what study.json says. A new folder is made when the first row is to
    be measured, so that what is refused before leaves nothing behind."""

    def __init__(
        self, path: Path, head: dict[str, Any], world: World, show: Callable[[FinishedJob], None], begun: bool = False
    ):
        self.path, self.head, self.world, self.show = path, head, world, show
        self.is_begun = begun
        self.data = ""  # what tells the content of the data from any other
        self.open = False
        self.finished: dict[tuple[str, int], Any] = {}
        self.lock = ExitStack()

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, *error: object) -> None:
        self.lock.close()

    def prepare(self, recipe: Recipe) -> PreparedRun:
        """The data of the study, read once; its rows belong to this content. Errors: those of preparing a run."""
        prepared = prepare_run(recipe, self.world)
        self.data = prepared.survey.content
        return prepared

    def begin(self) -> None:
        """Makes or opens the folder. Errors: `DataError` for other data or no place to write, `RunError`, `CheckpointError`."""
        if self.is_begun and self.head["data"] != self.data:
            raise DataError(
                f"the images are not those that {self.path} was begun with", "restore them, or start a new study"
            )
        self.head["data"] = self.data
        try:
            self.path.mkdir(parents=True, exist_ok=self.is_begun)
            self.lock.enter_context(hold_lock(self.path, self.world))
            clean_folder(self.path)
            if not self.is_begun:
                write_file(self.path / HEAD, resolve_head(self.head))
            self.finished = self.opened()
        except OSError as error:
            raise run_directory.unwritable_error(self.path, error) from None
        self.open = True

    def opened(self) -> dict[tuple[str, int], Any]:
        """What the journal knows, cut off behind its last whole line. Errors: `CheckpointError` where it is that of another study.json."""
        lines, size = journal.read(self.path / JOURNAL)
        journal.trim(self.path / JOURNAL, size)
        mine = hashlib.sha256(resolve_head(self.head)).hexdigest()
        if not lines:
            journal.add(self.path / JOURNAL, {"study": mine})
        elif lines[0].get("study") != mine:
            raise CheckpointError(f"{self.path / HEAD} was changed after the study began: its rows belong to other settings",
                                  "restore it, or start a new study")  # fmt: skip
        return {(line["row"], line["seed"]): line["value"] for line in lines[1:]}

    def measure(self, jobs: Sequence[Job], work: Callable[[Job], Any], line: Callable[[Job, Any], str]) -> list[Any]:
        """What `work` finds for each job, in their order: from the journal where it is there. `work` is a function of the job alone, and
        what it returns can be written as JSON. line: what is said of a finding."""
        if not self.open:
            self.begin()
        pending = sum(job.weight for job in jobs if (job.row, job.seed) not in self.finished)
        found, spent, weighed = [], 0.0, 0.0
        for number, job in enumerate(jobs, 1):
            key = (job.row, job.seed)
            if key not in self.finished:
                began = time.monotonic()
                self.record(key, work(job), began)
                spent += time.monotonic() - began
                weighed += job.weight
            left = spent / weighed * (pending - weighed) if weighed else None
            self.show(FinishedJob(job, line(job, self.finished[key]), number, len(jobs), left))
            found.append(self.finished[key])
        return found

    def record(self, key: tuple[str, int], value: Any, began: float) -> None:
        """Writes a finding down, and takes it as it will be read. Errors: `RunError` where the disk does not take it."""
        row, seed = key
        try:
            took = round(time.monotonic() - began, 3)
            journal.add(self.path / JOURNAL, {"row": row, "seed": seed, "value": value, "seconds": took})
        except OSError as error:
            raise RunError(
                f"{self.path / JOURNAL} cannot be written: {error.strerror or error}",
                f"then {resume_command(self.path)}",
            ) from None
        self.finished[key] = json.loads(json.dumps(value))

    def finish(self, files: dict[str, bytes]) -> None:
        """Writes what the study tells; the manifest last. Errors: `DataError`."""
        try:
            for name, content in files.items():
                write_file(self.path / name, content)
            kept = {name: (self.path / name).read_bytes() for name in (HEAD, JOURNAL)}
            write_file(self.path / MANIFEST, manifest({**kept, **files}))
        except OSError as error:
            raise run_directory.unwritable_error(self.path, error) from None

    def seconds(self) -> float:
        """How long all measured rows took, also those before an interruption."""
        return float(sum(line.get("seconds", 0.0) for line in journal.read(self.path / JOURNAL)[0]))


def group_by_row(jobs: Sequence[Job], values: Sequence[Any]) -> dict[str, list[Any]]:
    """What `measure` found, by row: of each the seeds in their order."""
    found: dict[str, list[Any]] = {}
    for job, value in zip(jobs, values, strict=True):
        found.setdefault(job.row, []).append(value)
    return found


def resolve_head(head: dict[str, Any]) -> bytes:
    return (json.dumps(head, indent=1) + "\n").encode()


def resume_command(path: Path) -> str:
    """The command that goes on with a study."""
    return f"vitrail study --resume {path}"


def create_bench(name: str, config: Any, path: Path, world: World, show: Callable[[FinishedJob], None]) -> Bench:
    """The bench of a study that has not begun. Errors: `UsageError` where something is there already, `DataError` for no place to write."""
    if (path / HEAD).is_file():
        raise UsageError(
            f"{path} is there already and is never overwritten",
            f"{resume_command(path)} goes on with it; another --out starts anew",
        )
    run_directory.check_writable(path)
    head = {"study": name, "command": run_directory.command_line(), "config": dataclasses.asdict(config), "versions": versions(), "data": None,
            "device": world.device.type, "threads": torch.get_num_threads()}  # fmt: skip
    return Bench(path, json.loads(json.dumps(head)), world, show)


def read_head(source: str) -> tuple[Path, dict[str, Any]]:
    """The folder of a study that was begun, and what its study.json says. Errors: `CheckpointError`."""
    path = as_path(source)
    try:
        head = json.loads((path / HEAD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        told = getattr(error, "strerror", None) or error
        raise CheckpointError(
            f"{path} is not the folder of a study: {HEAD}: {told}", "vitrail study NAME begins one"
        ) from None
    if not isinstance(head, dict) or tuple(head) != KEYS:
        raise CheckpointError(f"{path / HEAD} does not say what a study is", "start a new study")
    return path, head


def resume_bench(source: str, world: World, show: Callable[[FinishedJob], None]) -> tuple[Bench, Any, Any]:
    """The bench of a study that was begun, its module, and its settings. Errors: `CheckpointError`, and `UsageError` for another version
    of what the numbers depend on."""
    path, head = read_head(source)
    module = catalog.load_module("studies", head["study"].replace("-", "_"))
    here = versions()
    for what in FIXED:
        if head["versions"].get(what) != here[what]:
            raise UsageError(f"{path} was begun with {what} {head['versions'].get(what)}, and this is {here[what]}: its rows may differ",
                             "start a new study")  # fmt: skip
    if set(head["config"]) != {f.name for f in dataclasses.fields(module.Config)}:
        raise CheckpointError(
            f"{path / HEAD} has settings that the study {head['study']} does not have", "start a new study"
        )
    torch.set_num_threads(head["threads"])  # sums over threads differ in their last digits
    return (
        Bench(path, head, world, show, begun=True),
        module,
        update_config(module.Config(), head["config"], head["study"]),
    )
