"""The folder of a run and what lies where in it.

recipe.toml        the whole recipe, nothing left open; the reasons of every choice as comments
run.json           classes, reasons, the command, versions, the data in numbers
entries.txt.gz     the files of the data set, to notice when it changes
log.jsonl          one row per report
checkpoints/       step-00000200/ and so on
best/              step-00000150.safetensors: the weights of the best evaluation, where train.patience is said
divergence/        the batch and the finding where a number was not finite
model.safetensors  the finished weights; alone enough for everything after training
ema2.safetensors   the same by the second average, where optim.ema_decay_2 is said
evaluation/        test.json and test.npz, one pair per part of the data; where the model makes images, also
                   samples.png, quality.json, sweep.*, moments/ (a row of images at moments of the run) and copying-*.json
                   and .npz (made images and the training images nearest to them)
report.html        all of it on one page
"""

import contextlib
import errno
import json
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
from vitrail.validation import as_path

PAGE = 4096  # bytes


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
    def divergence(self) -> Path:
        return self.path / "divergence"

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
        return self.evaluation / "moments"

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
        try:
            said = json.loads(self.about_file.read_text(encoding="utf-8"))
            if not isinstance(said, dict) or not {"classes", "data"} <= said.keys():
                raise ValueError("it does not say what a run is")
            return said
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{self.about_file} cannot be read ({error})", "is this the folder of a run?"
            ) from None

    def create(self, recipe: Recipe, about: dict[str, Any], files: Iterable[Entry]) -> None:
        """Makes the folder, whole or not at all. Errors: `UsageError` where something is there already."""
        self.refuse_existing()
        beside = self.path.with_name(f".{self.path.name}.tmp-{os.getpid()}")
        try:
            beside.mkdir(parents=True)
            fresh = RunFolder(beside)
            fresh.describe(recipe, about)
            write_entries(fresh.entries, files)
            os.rename(beside, self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                shutil.rmtree(beside)
            raise unwritable_error(self.path, error) from None

    def describe(self, recipe: Recipe, about: dict[str, Any]) -> None:
        """Writes what the run is: on resuming, when settings were allowed to change."""
        write_file(self.about_file, (json.dumps(about, indent=1, ensure_ascii=False) + "\n").encode())
        write_file(self.recipe_file, to_toml(recipe, about.get("reasons", [])).encode())

    def check_writable(self) -> None:
        """Finds out before the first step of a resumed run whether it can be written, its log anew included. Errors: `DataError`."""
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


def find_run(name: str | Path) -> RunFolder:
    """The run that a user means by a folder, a file in it, a checkpoint, or a bare name under runs/. Errors: `CheckpointError`."""
    path = as_path(name)
    places = [path, *list(path.absolute().parents)[:2]] if path.exists() else []
    for there in [*places, Path("runs") / path]:
        folder = RunFolder(there)
        if folder.is_run:
            return folder
    runs = {p.parent.name: str(p.parent) for p in sorted(Path("runs").glob("*/recipe.toml"))}
    near = [runs[n] for n in nearest(path.name, runs)] or list(runs.values())[-4:]
    what = f"{name} is not the folder of a run" if path.exists() else f"there is no run {name}"
    raise CheckpointError(what, f"runs here: {', '.join(near) or 'none under runs/ yet; vitrail train makes one'}")


def new_run_path(dataset: str, model: str) -> Path:
    """A folder under runs/ that is not there yet, named after the data and the model."""
    stem = "-".join((Path(dataset).stem or "data", model.rpartition("/")[2]))
    stem = "".join(ch if ch.isalnum() or ch in "-_." else "-" for ch in stem)[:60]
    number = 1
    while (path := Path("runs") / (stem if number == 1 else f"{stem}-{number}")).exists():
        number += 1
    return path


def check_writable(path: Path) -> None:
    """Finds out before step 0 whether a run can be written at `path`. Errors: `DataError`."""
    try:
        RunFolder(path).refuse_existing()
        there = next(
            p for p in path.absolute().parents if os.path.lexists(p)
        )  # no folder is made: the run may yet be refused
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{there} is not a folder")
        probe_writable(there)
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
