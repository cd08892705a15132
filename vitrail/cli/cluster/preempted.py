"""`--resume-if-there`: one command that starts a run, resumes it, or finds it finished, so that a scheduler may repeat
it unchanged after every preemption."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vitrail.cli.syntax.keys import Given
from vitrail.recipe import FREE_SECTIONS, Recipe, to_tables
from vitrail.storage.json_text import from_json, to_json

if TYPE_CHECKING:
    from vitrail.assembly.run_directory import RunFolder
    from vitrail.engine.processes.world import World


class Existing(NamedTuple):
    """The run that a command goes on with: the keys that it changes, whether it is finished, and a line for the
    user."""

    path: Path
    keys: Given
    is_finished: bool
    text: str


def find_existing(out: Path | None, request: Recipe, is_wanted: bool, world: "World") -> Existing | None:
    """The run to go on with: that which this launch has begun before it was started again, or where that is wanted the
    one at `out`. None where there is none. The same on every process."""
    from vitrail.training.restart import find_begun

    if begun := find_begun(out, world):
        return Existing(begun.path, [], False, f"started again by torchrun; {begun.path} goes on")
    return world.on_rank_zero(lambda: read_existing(out, request)) if out and is_wanted else None


def read_existing(out: Path, request: Recipe) -> Existing | None:
    """The run at `out`, None where no run is."""
    from vitrail.assembly.run_directory import RunFolder

    folder = RunFolder(out)
    if not folder.is_run:
        return None
    keys = changed_keys(request, folder)
    changes_result = {section for section, _ in keys} - set(FREE_SECTIONS)
    if changes_result or not is_finished(folder):
        return Existing(out, keys, False, f"{out} is there and goes on")
    text = f"{out} is finished: {newest_step(folder.checkpoints)} steps; nothing is left to do"
    return Existing(out, keys, True, text)


def is_finished(folder: "RunFolder") -> bool:
    """Whether the last weights and the report are there, and all steps are done or the run has stopped early."""
    if not (folder.weights.is_file() and folder.report.is_file()):
        return False
    train = folder.recipe().train
    return train.patience > 0 or newest_step(folder.checkpoints) >= (train.steps or 0)


def newest_step(checkpoints: Path) -> int:
    """The step of the newest checkpoint by its name, 0 where there is none."""
    numbers = [p.name.rpartition("-")[2] for p in checkpoints.glob("step-*")]
    return max((int(n) for n in numbers if n.isdecimal()), default=0)


def changed_keys(request: Recipe, folder: "RunFolder") -> Given:
    """The keys that a command asks for now and did not ask for when it began the run. What it leaves out now stays as
    it was."""
    before: Mapping[str, Any] | None = folder.about().get("request")
    if before is None:  # a run of an earlier version
        return []
    now: dict[str, dict[str, Any]] = from_json(to_json(to_tables(request)))
    return [
        (section, {key: value})
        for section, table in now.items()
        for key, value in table.items()
        if before.get(section, {}).get(key) != value
    ]
