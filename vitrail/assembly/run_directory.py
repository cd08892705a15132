"""The folder of a run and its files.

recipe.toml        the whole recipe, every option set; the reasons of every choice as comments
run.json           classes, reasons, the command, versions, the data in numbers
entries.txt.gz     the files of the data set, to detect changes
log.jsonl          one row per line of output
checkpoints/       step-00000200/ and so on
best/              step-00000150.safetensors: the weights of the best evaluation on the validation part, enough on
                   their own too; used unless --checkpoint last
best.json          the step, the value and the file of the best weights
divergence/        the batch and the diagnosis where a number was not finite
flight/            the last collectives of each process where they waited for each other without end
model.safetensors  the last weights (with train.patience, the best); enough on their own for everything after training
ema2.safetensors   the same by the second average, where optim.ema_decay_2 is set
evaluation/        test.json and test.npz, one pair per split of the data; of a generative model also samples.png,
                   quality.json, sweep.*, snapshots/ (a row of samples at some steps of the run) and copying-*.json and
                   .npz (generated images and the training images nearest to them)
report.html        all of it on one page
"""

import contextlib
import errno
import os
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrail.data.dataset import Entry
from vitrail.data.fingerprint import write_entries
from vitrail.errors import CheckpointError, DataError, UsageError, nearest
from vitrail.recipe import Recipe, read, to_tables
from vitrail.storage.atomic import write_file
from vitrail.storage.json_text import from_json, to_json
from vitrail.storage.litter import clear_litter
from vitrail.validation import as_path, check_fields

PAGE = 4096  # bytes
RUNS = "runs"  # the folder of runs without another
ABOUT = {  # the types of the fields of run.json that something depends on, and of its field "data"
    "format": int, "classes": list[str], "multi_label": bool, "kind": str, "metric": str, "lower_is_better": bool,
    "reasons": list[str], "notes": list[str], "command": list[str], "versions": dict[str, Any], "weights": list[str],
    "processes": int, "parameters": int, "changed": list[dict[str, Any]], "data": dict[str, Any],
    "origin": dict[str, Any], "request": dict[str, Any],
}  # fmt: skip
DATA = {
    "layout": str, "parts": dict[str, int], "channels": int, "content": str, "files": str,
    "left_out": dict[str, list[int]],
}  # fmt: skip


@dataclass(frozen=True)
class RunFolder:
    path: Path

    @property
    def recipe_file(self) -> Path:
        return self.path / "recipe.toml"

    @property
    def about_file(self) -> Path:
        return self.path / "run.json"

    @property
    def entries(self) -> Path:
        return self.path / "entries.txt.gz"

    @property
    def log(self) -> Path:
        return self.path / "log.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        return self.path / "best"

    @property
    def best_about(self) -> Path:
        return self.path / "best.json"

    def best_evaluation(self) -> dict[str, Any]:
        """The evaluation that chose the best weights: "step", "metric", "value", "part" and "file"; empty where none
        did, or its record cannot be read."""
        try:
            about = from_json(self.best_about.read_text(encoding="utf-8"))
            name, step = about["file"], about["step"]
            is_sound = isinstance(name, str) and Path(name).name == name and isinstance(step, int)
            return dict(about) if is_sound else {}
        except (OSError, ValueError, TypeError, KeyError):
            return {}

    def describe_weights(self, are_best: bool) -> dict[str, Any]:
        """Which weights were evaluated, for the record of an evaluation."""
        about = self.best_evaluation() if are_best else {}
        about.pop("file", None)
        return {"checkpoint": "best", **about} if about else {"checkpoint": "last"}

    @property
    def best_weights(self) -> Path | None:
        """The file of the best weights, None where the run has none."""
        about = self.best_evaluation()
        return self.best / about["file"] if about else None

    @property
    def divergence(self) -> Path:
        return self.path / "divergence"

    @property
    def flight(self) -> Path:
        return self.path / "flight"

    @property
    def weights(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def ema2(self) -> Path:
        return self.path / "ema2.safetensors"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation"

    @property
    def samples(self) -> Path:
        return self.evaluation / "samples.png"

    @property
    def snapshots(self) -> Path:
        return self.evaluation / "snapshots"

    @property
    def quality(self) -> Path:
        return self.evaluation / "quality.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def is_run(self) -> bool:
        return self.recipe_file.is_file() and self.about_file.is_file()

    def recipe(self) -> Recipe:
        return read(self.recipe_file)

    def about(self) -> dict[str, Any]:
        """What run.json says, each field of its type. Errors: `CheckpointError`."""
        try:
            about = from_json(self.about_file.read_bytes())
            if not isinstance(about, dict) or any(key not in about for key in ("classes", "data")):
                raise ValueError("it has no classes or data")
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{self.about_file} cannot be read ({error})", "is this the folder of a run?"
            ) from None
        check_fields(about, {key: kind for key, kind in ABOUT.items() if key in about}, str(self.about_file))
        data = about["data"]
        check_fields(data, {key: kind for key, kind in DATA.items() if key in data}, f"data of {self.about_file}")
        return {"multi_label": False, **about, "data": {"left_out": {}, "content": "", **data}}

    def create(self, recipe: Recipe, about: dict[str, Any], files: Iterable[Entry]) -> None:
        """Creates the folder, whole or not at all. Errors: `UsageError` where it exists."""
        self.refuse_existing()
        clear_litter(self.path)
        temporary = self.path.with_name(f".{self.path.name}.tmp-{os.getpid()}")
        try:
            temporary.mkdir(parents=True)
            fresh = RunFolder(temporary)
            fresh.describe(recipe, about)
            write_entries(fresh.entries, files)
            os.rename(temporary, self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                shutil.rmtree(temporary)
            raise unwritable_error(self.path, error) from None

    def describe(self, recipe: Recipe, about: dict[str, Any]) -> None:
        """Writes run.json and recipe.toml; on resuming, when settings were allowed to change."""
        write_file(self.about_file, (to_json(about, indent=1, ensure_ascii=False) + "\n").encode())
        write_file(self.recipe_file, to_toml(recipe, about.get("reasons", [])).encode(errors="surrogateescape"))

    @property
    def has_checkpoint(self) -> bool:
        """Whether anything was saved that a run can go on from or end with."""
        return self.weights.exists() or any(self.checkpoints.glob("step-*"))

    def discard(self) -> None:
        """Removes the folder of a run that has saved nothing."""
        if not self.has_checkpoint and not self.divergence.exists():
            shutil.rmtree(self.path, ignore_errors=True)
            if self.path.parent.name == RUNS:
                with contextlib.suppress(OSError):
                    self.path.parent.rmdir()  # where it is empty

    def check_writable(self) -> None:
        """Checks before the first step of a resumed run that it can be written, with a copy of its log. Errors:
        `DataError`."""
        try:
            probe_writable(self.path, PAGE + (self.log.stat().st_size if self.log.exists() else 0))
        except OSError as error:
            raise unwritable_error(self.path, error) from None

    def refuse_existing(self) -> None:
        if self.path.exists() or self.path.is_symlink():
            fix = (
                f"--resume {self.path} continues it; another --out starts a new one"
                if self.is_run
                else "choose another --out"
            )
            raise UsageError(f"{self.path} is there already and is never overwritten", fix)


def hash_of(data: dict[str, Any]) -> str:
    """The hash by which the data of a run is known: of its content where all of it was read, else of its files' names,
    sizes and times. data: as in run.json."""
    return str(data.get("content") or data.get("files") or "")


def find_run(name: str | Path) -> RunFolder:
    """The run of a folder, a file in it, a checkpoint, or a bare name under runs/. Errors: `CheckpointError`."""
    path = as_path(name)
    candidates = [path, *list(path.absolute().parents)[:2]] if path.exists() else []
    for candidate in [*candidates, Path(RUNS) / path]:
        folder = RunFolder(candidate)
        if folder.is_run:
            return folder
    runs = {p.parent.name: str(p.parent) for p in sorted(Path(RUNS).glob("*/recipe.toml"))}
    near = [runs[n] for n in nearest(path.name, runs)] or list(runs.values())[-4:]
    what = f"{name} is not the folder of a run" if path.exists() else f"there is no run {name}"
    raise CheckpointError(what, f"runs here: {', '.join(near) or 'none under runs/ yet; vitrail train creates one'}")


def new_run_path(dataset: str, model: str) -> Path:
    """A new folder under runs/, named after the data and the model."""
    stem = "-".join((Path(dataset).stem or "data", model.rpartition("/")[2]))
    stem = "".join(ch if ch.isalnum() or ch in "-_." else "-" for ch in stem)[:60]
    number = 1
    while (path := Path(RUNS) / (stem if number == 1 else f"{stem}-{number}")).exists():
        number += 1
    return path


def check_writable(path: Path) -> None:
    """Checks before step 0 that a run can be written at `path`. Errors: `DataError`."""
    try:
        RunFolder(path).refuse_existing()
        clear_litter(path)
        parent = next(p for p in path.absolute().parents if os.path.lexists(p))  # no folder is created yet
        if not parent.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{parent} is not a folder")
        probe_writable(parent)
    except OSError as error:
        raise unwritable_error(path, error) from None


def probe_writable(folder: Path, size: int = PAGE) -> None:
    """Writes so many bytes and removes them again."""
    file = folder / f".vitrail-{os.getpid()}"
    try:
        file.write_bytes(bytes(size))
    finally:
        file.unlink(missing_ok=True)


def unwritable_error(path: Path, error: OSError) -> DataError:
    return DataError(
        f"{path} cannot be written: {error.strerror or error}", "choose another --out, or free the space it needs"
    )


def to_toml(recipe: Recipe, reasons: list[str]) -> str:
    import tomli_w

    head = ["# vitrail train recipe.toml", *(f"# {reason}" for reason in reasons)]
    return "\n".join(head).replace("\r", " ") + "\n\n" + tomli_w.dumps(to_tables(recipe))


def command_line() -> list[str]:
    """The words that started this process, as a user would type them."""
    return ["vitrail", *sys.argv[1:]]
