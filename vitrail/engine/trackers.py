"""TensorBoard, Weights & Biases and MLflow beside the log of a run, when they are asked for.

Nothing of theirs is imported otherwise. None of them can end a run, ask a question or, unless the user's own settings
say so (WANDB_MODE, MLFLOW_TRACKING_URI), reach the network.
"""

import importlib
import importlib.util
import json
import os
import sys
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from vitrail.errors import UsageError
from vitrail.recipe import RuntimeConfig
from vitrail.storage.atomic import write_file
from vitrail.storage.json_text import to_json

KEPT = "trackers.json"  # in the folder of a run: its numbers elsewhere, for resuming
PROJECT = "vitrail"  # unless WANDB_PROJECT or MLFLOW_EXPERIMENT_NAME has another
LONGEST = 500  # characters of a value of MLflow
MOST = 100  # values that MLflow takes at a time
SETTINGS = {  # settings of theirs where the user has none: no telemetry, and no minutes of waiting for a lost server
    "WANDB_ERROR_REPORTING": "false", "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}  # fmt: skip


class RunFacts(NamedTuple):
    """What a tracker records of a run. step: the one after which it begins or continues."""

    folder: Path
    step: int
    recipe: Mapping[str, Mapping[str, Any]]


class Tracker(ABC):
    """One of them, opened for a run. Whatever it raises is caught above it."""

    note: str = ""  # where its data are

    @abstractmethod
    def __init__(self, facts: RunFacts): ...

    @abstractmethod
    def write(self, kind: str, step: int, values: Mapping[str, float]) -> None: ...

    @abstractmethod
    def close(self, failed: bool) -> None: ...


class TensorBoard(Tracker):
    def __init__(self, facts: RunFacts):
        from torch.utils.tensorboard import SummaryWriter

        folder = str(facts.folder / "tensorboard")
        self.writer: Any = SummaryWriter(folder, purge_step=facts.step + 1)

    def write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(f"{kind}/{name}", value, step)

    def close(self, failed: bool) -> None:
        self.writer.close()


class WandB(Tracker):
    """Offline unless WANDB_MODE says online; then without a key it fails instead of asking for one."""

    def __init__(self, facts: RunFacts):
        wandb: Any = importlib.import_module("wandb")
        mode = os.environ.get("WANDB_MODE", "offline")
        key = kept(facts.folder, "wandb") or uuid.uuid4().hex[:8]
        settings = {"console": "off", "disable_git": True, "save_code": False, "silent": True, "x_disable_meta": True,
                    "x_disable_stats": True}  # fmt: skip
        with no_questions(), no_import_hooks():
            self.run: Any = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT), name=facts.folder.name, dir=str(facts.folder),
                id=key, resume="allow", mode=mode, config=dict(facts.recipe), settings=settings,
            )  # fmt: skip
        keep(facts.folder, "wandb", key)
        if mode == "offline":
            self.note = f"wandb is offline; to send the run: wandb sync {facts.folder}/wandb/offline-run-*-{key}"

    def write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        self.run.log({f"{kind}/{name}": value for name, value in values.items()}, step=step)

    def close(self, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))


class MLflow(Tracker):
    """In MLflow's own place, mlflow.db of the working folder, unless MLFLOW_TRACKING_URI has another."""

    def __init__(self, facts: RunFacts):
        self.mlflow: Any = importlib.import_module("mlflow")
        if not os.environ.get("MLFLOW_EXPERIMENT_NAME"):
            self.mlflow.set_experiment(PROJECT)
        key = kept(facts.folder, "mlflow")
        run = self.mlflow.start_run(run_id=key) if key else self.mlflow.start_run(run_name=facts.folder.name)
        keep(facts.folder, "mlflow", str(run.info.run_id))
        rows = [
            (f"{section}.{name}", value) for section, table in facts.recipe.items() for name, value in table.items()
        ]
        texts = {name: str(value)[:LONGEST] for name, value in rows if not key}  # those of a run cannot change
        for start in range(0, len(texts), MOST):
            self.mlflow.log_params(dict(list(texts.items())[start : start + MOST]))

    def write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        self.mlflow.log_metrics({f"{kind}/{name}": float(value) for name, value in values.items()}, step=step)

    def close(self, failed: bool) -> None:
        self.mlflow.end_run("FAILED" if failed else "FINISHED")


class Kind(NamedTuple):
    title: str
    package: str  # that it needs, and the extra that installs it
    build: type[Tracker]


KINDS = {  # by their keys of [runtime]
    "tensorboard": Kind("TensorBoard", "tensorboard", TensorBoard),
    "wandb": Kind("Weights & Biases", "wandb", WandB),
    "mlflow": Kind("MLflow", "mlflow", MLflow),
}


def requested(runtime: RuntimeConfig) -> list[str]:
    """The keys of those that a recipe asks for."""
    flags = {"tensorboard": runtime.tensorboard, "wandb": runtime.wandb, "mlflow": runtime.mlflow}
    return [name for name, wanted in flags.items() if wanted]


def check_trackers(runtime: RuntimeConfig) -> None:
    """Errors: `UsageError` where one is asked for that is not installed; before a run has a folder."""
    for name in requested(runtime):
        kind = KINDS[name]
        if sys.modules.get(kind.package) is None and not is_installed(kind.package):
            raise UsageError(f"{kind.title} is not installed",
                             f"pip install 'vitrail[{name}]', or leave --runtime.{name} out")  # fmt: skip


def is_installed(package: str) -> bool:
    return package not in sys.modules and importlib.util.find_spec(package) is not None


class Trackers:
    """Those of one run. One that fails is dropped with a note, and the run goes on."""

    def __init__(self, runtime: RuntimeConfig, facts: RunFacts):
        self.open: dict[str, Tracker] = {}
        self.notes: list[str] = []
        for name in requested(runtime):
            for key, value in SETTINGS.items():
                os.environ.setdefault(key, value)
            with self.dropped_on_error(name):
                self.open[name] = KINDS[name].build(facts)
                self.notes += [note] if (note := self.open[name].note) else []

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Of the values those that are numbers."""
        numbers = {k: v for k, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool)}
        for name, tracker in list(self.open.items()):
            with self.dropped_on_error(name):
                tracker.write(kind, step, numbers)

    def close(self, failed: bool = False) -> None:
        """failed: whether an error ended the run."""
        for name, tracker in list(self.open.items()):
            with self.dropped_on_error(name):
                tracker.close(failed)

    @contextmanager
    def dropped_on_error(self, name: str) -> Iterator[None]:
        try:
            yield
        except (Exception, SystemExit) as error:
            self.open.pop(name, None)
            why = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
            self.notes.append(f"{KINDS[name].title} is left out from here on ({why}); log.jsonl has every row")


@contextmanager
def no_questions() -> Iterator[None]:
    """Standard input is empty meanwhile, so that a library cannot wait for an answer."""
    before = sys.stdin
    with open(os.devnull, encoding="utf-8") as nothing:
        sys.stdin = nothing
        try:
            yield
        finally:
            sys.stdin = before


@contextmanager
def no_import_hooks() -> Iterator[None]:
    """Hooks into Python's import that a library adds meanwhile are removed: they would run in forked workers, where
    that of wandb fails, and the import with it."""
    before = list(sys.meta_path)
    try:
        yield
    finally:
        sys.meta_path[:] = [finder for finder in sys.meta_path if finder in before]


def kept(folder: Path, name: str) -> str:
    """The number of a run elsewhere; "" for a new one."""
    try:
        numbers = json.loads((folder / KEPT).read_text(encoding="utf-8"))
        return str(numbers.get(name, ""))
    except (OSError, ValueError, AttributeError):
        return ""


def keep(folder: Path, name: str, key: str) -> None:
    numbers = {other: number for other in KINDS if (number := kept(folder, other))}
    write_file(folder / KEPT, to_json({**numbers, name: key}).encode())
