"""All that a report needs to know of a run, read once; what is missing or damaged is left empty, with the reason."""

import json
import zipfile
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from vitrail import catalog
from vitrail.analysis.cost import Cost, cost
from vitrail.assembly import model
from vitrail.assembly.data import reopen_dataset
from vitrail.assembly.resolve import Names
from vitrail.assembly.run_directory import RunFolder
from vitrail.contracts import Task, trunk_of
from vitrail.data.dataset import Dataset
from vitrail.engine import log
from vitrail.engine.freeze import freeze, parts_to_freeze
from vitrail.errors import VitrailError
from vitrail.recipe import Choice, Recipe

NOTHING = np.zeros((0, 0))
ORDER = ("test", "val", "train")  # which part judges a model, where there are several


class Evaluation(NamedTuple):
    """One judged part of the data. probabilities [N K], targets [N] or [N K] and names are empty where they are not kept.

    rows, scores: of masks and boxes instead, what was counted in each image [N W] and how good that is [N]; rows of a model that makes
    images are the losses [N 1].
    """

    part: str
    metrics: dict[str, Any]
    probabilities: np.ndarray
    targets: np.ndarray
    names: list[str]
    rows: np.ndarray = NOTHING
    scores: np.ndarray = NOTHING


class Score(NamedTuple):
    """The number in the headline: `value`, a share unless less is better, over so many `images` of `part`, after `step` steps."""

    part: str
    value: float
    images: int
    step: int


@dataclass(frozen=True)
class RunData:
    """A run as it lies in its folder. `evaluation`: the part that counts; `others`: metrics of further parts by name.

    `absent` says why there is no `dataset`.
    """

    folder: RunFolder
    recipe: Recipe
    about: dict[str, Any]
    training: list[dict[str, Any]]
    evals: list[dict[str, Any]]
    evaluation: Evaluation | None
    others: dict[str, dict[str, Any]]
    dataset: Dataset | None
    absent: str
    cost: Cost | None

    @cached_property
    def task(self) -> Task:
        """What the model was trained for."""
        name = self.recipe.task.name or catalog.default_task(str(self.about.get("kind", "classes")), "backbone")
        return Names().task(Choice(name, self.recipe.task.keys), len(self.classes), self.is_multi_label)

    @property
    def classes(self) -> list[str]:
        return [str(name) for name in self.about["classes"]]

    @property
    def is_multi_label(self) -> bool:
        return bool(self.about.get("multi_label"))

    @property
    def metric(self) -> str:
        return self.task.metric.name

    @property
    def is_lower_better(self) -> bool:
        """Whether less of the metric is better; then it is no share."""
        return not self.task.metric.higher_is_better

    @property
    def steps(self) -> int:
        """Steps of the whole plan."""
        return self.recipe.train.steps or 0

    @property
    def steps_done(self) -> int:
        """Steps that were logged."""
        return max((int(row["step"]) for row in self.training), default=0)

    @property
    def is_finished(self) -> bool:
        return self.folder.weights.is_file()

    @property
    def seconds(self) -> float:
        """Time spent stepping and judging, over all resumptions."""
        steps = [0, *(int(row["step"]) for row in self.training)]
        batch = self.recipe.train.batch_size or 1
        stepping = [
            (b - a) * batch / row["images_per_s"]
            for a, b, row in zip(steps, steps[1:], self.training, strict=False)
            if row.get("images_per_s")
        ]
        return sum(stepping) + sum(row.get("eval_s") or 0.0 for row in self.evals)

    @property
    def score(self) -> Score | None:
        """From the kept judgement; while a run goes on, from the last line of its log."""
        if self.evaluation and self.metric in self.evaluation.metrics:
            numbers = self.evaluation.metrics
            return Score(self.evaluation.part, numbers[self.metric], int(numbers["count"]), self.steps_done)
        for row in reversed(self.evals):
            if isinstance(row.get(self.metric), float):
                return Score(str(row.get("part", "")), row[self.metric], int(row.get("count", 0)), int(row["step"]))
        return None


def read_run(folder: RunFolder) -> RunData:
    """Errors: `UsageError` or `CheckpointError` where the folder is no run; whatever else is missing is left out."""
    recipe, about = folder.recipe(), folder.about()
    rows = [row for row in log.read_rows(folder.log) if isinstance(row, dict) and isinstance(row.get("step"), int)]
    metrics = read_evaluations(folder)
    parts = sorted(metrics, key=lambda part: (ORDER.index(part) if part in ORDER else len(ORDER), part))
    dataset, absent = open_dataset(recipe, about)
    return RunData(
        folder=folder,
        recipe=recipe,
        about=about,
        training=[row for row in rows if row.get("kind") == "train"],
        evals=[row for row in rows if row.get("kind") == "eval"],
        evaluation=read_evaluation(folder, parts[0], metrics[parts[0]]) if parts else None,
        others={part: metrics[part] for part in parts[1:]},
        dataset=dataset,
        absent=absent,
        cost=read_cost(recipe, about),
    )


def read_evaluations(folder: RunFolder) -> dict[str, dict[str, Any]]:
    """The metrics of every judged part."""
    found = {}
    for path in sorted(folder.evaluation.glob("*.json")):
        try:
            found[path.stem] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
    return {part: metrics for part, metrics in found.items() if isinstance(metrics, dict) and "count" in metrics}


def read_evaluation(folder: RunFolder, part: str, metrics: dict[str, Any]) -> Evaluation:
    """A part with what was said of each of its images."""
    try:
        with (
            (folder.evaluation / f"{part}.npz").open("rb") as file,
            np.load(file) as kept,
        ):  # numpy leaves what is damaged open
            found = {key: kept.get(key, NOTHING) for key in ("probabilities", "targets", "rows", "scores")}
            found["rows"] = kept.get("losses", found["rows"])
            return Evaluation(part, metrics, names=[str(name) for name in kept["names"]], **found)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return Evaluation(part, metrics, np.zeros((0, 0)), np.zeros(0, int), [])


def open_dataset(recipe: Recipe, about: dict[str, Any]) -> tuple[Dataset | None, str]:
    """The data set of the run as it is now, or why it cannot be had."""
    try:
        return reopen_dataset(recipe, about), ""
    except VitrailError as error:
        return None, error.what
    except (OSError, IndexError) as error:
        return None, f"the data set cannot be read ({error})"


def read_cost(recipe: Recipe, about: dict[str, Any]) -> Cost | None:
    """What the model of a recipe costs; its structure is enough, so no weight is read or made."""
    import torch

    try:
        with torch.device("meta"):
            net = model.assemble_model(recipe, tuple(about["classes"]), bool(about.get("multi_label"))).model
        trunk = trunk_of(net)
        freeze(parts_to_freeze(net, trunk, list(trunk.blocks), recipe.optim.freeze))
        return cost(net)
    except (
        VitrailError,
        RuntimeError,
        ValueError,
        NotImplementedError,
    ):  # a family that cannot be counted costs its section only
        return None
