"""All data of a run that a report needs, read once; what is missing or damaged is left empty, with the reason."""

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
from vitrail.recipe import Choice, Recipe, with_defaults

EMPTY = np.zeros((0, 0))
ORDER = ("test", "val", "train")  # the part to evaluate on, where there are several


class Evaluation(NamedTuple):
    """The evaluation of one part of the data.

    probabilities [N K], targets [N] or [N K] and names are empty where they were not saved, probabilities also for a
    task that evaluates on changed images. For masks and boxes, rows holds the counts of each image [N W] and scores the
    score of each image [N]; for a generative model, rows holds the losses [N 1].
    """

    part: str
    metrics: dict[str, Any]
    probabilities: np.ndarray
    targets: np.ndarray
    names: list[str]
    rows: np.ndarray = EMPTY
    scores: np.ndarray = EMPTY


class Score(NamedTuple):
    """The metric in the headline: `value` (a fraction unless lower is better) over `images` of `part` at `step`."""

    part: str
    value: float
    images: int
    step: int


@dataclass(frozen=True)
class RunData:
    """A run, read from its folder. `evaluation`: of the main part; `others`: metrics of the other parts by name.

    `absent`: why there is no `dataset`.
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
        """Whether lower values of the metric are better; then it is not a fraction."""
        return not self.task.metric.higher_is_better

    @property
    def steps(self) -> int:
        """Total training steps of the recipe."""
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
        """Time spent in training steps and evaluations, over all resumptions."""
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
        """From the saved evaluation; while a run goes on, from the last evaluation in its log."""
        if self.evaluation and self.metric in self.evaluation.metrics:
            numbers = self.evaluation.metrics
            return Score(self.evaluation.part, numbers[self.metric], int(numbers["count"]), self.steps_done)
        for row in reversed(self.evals):
            if isinstance(row.get(self.metric), float):
                return Score(str(row.get("part", "")), row[self.metric], int(row.get("count", 0)), int(row["step"]))
        return None


def read_run(folder: RunFolder) -> RunData:
    """Errors: `UsageError` or `CheckpointError` where the folder is not a run; whatever else is missing is omitted."""
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
    """The metrics of every evaluated part."""
    evaluations = {}
    for path in sorted(folder.evaluation.glob("*.json")):
        try:
            evaluations[path.stem] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
    return {part: metrics for part, metrics in evaluations.items() if isinstance(metrics, dict) and "count" in metrics}


def read_evaluation(folder: RunFolder, part: str, metrics: dict[str, Any]) -> Evaluation:
    """The evaluation of a part with the predictions for each image."""
    try:
        # numpy does not close a damaged file by itself
        with (folder.evaluation / f"{part}.npz").open("rb") as file, np.load(file) as archive:
            arrays = {key: archive.get(key, EMPTY) for key in ("probabilities", "targets", "rows", "scores")}
            arrays["rows"] = archive.get("losses", arrays["rows"])
            return Evaluation(part, metrics, names=[str(name) for name in archive["names"]], **arrays)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return Evaluation(part, metrics, np.zeros((0, 0)), np.zeros(0, int), [])


def open_dataset(recipe: Recipe, about: dict[str, Any]) -> tuple[Dataset | None, str]:
    """The data set of the run as it is now, or why it cannot be opened."""
    try:
        return reopen_dataset(recipe, about), ""
    except VitrailError as error:
        return None, error.what
    except (OSError, IndexError) as error:
        return None, f"the data set cannot be read ({error})"


def read_cost(recipe: Recipe, about: dict[str, Any]) -> Cost | None:
    """The cost of a recipe's model, from its structure on the meta device: no weights are read or allocated."""
    import torch

    try:
        with torch.device("meta"):
            net = model.assemble_model(recipe, tuple(about["classes"]), bool(about.get("multi_label"))).model
        trunk = trunk_of(net)
        freeze(parts_to_freeze(net, trunk, list(trunk.blocks), with_defaults(recipe.optim).freeze or 0))
        return cost(net)
    except (VitrailError, RuntimeError, ValueError, NotImplementedError):  # only the cost section is omitted
        return None
