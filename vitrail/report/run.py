"""A run as Python sees it: its metrics, its model, its report."""

from functools import cached_property
from pathlib import Path
from typing import Any

from vitrail.assembly.run_directory import RunFolder, find_run
from vitrail.engine.log import read_rows
from vitrail.errors import many
from vitrail.inference.describe import list_classes
from vitrail.inference.predictor import Predictor, load_predictor
from vitrail.recipe import Recipe
from vitrail.report.page.run_page import build_report
from vitrail.report.run_data import ORDER, read_evaluations

SHOWN = 4  # metrics
ABOUT = ("step", "kind", "part", "eval_s", "count")  # of an evaluation, beside its metrics


class Run:
    """The folder of a run, by its path or its name under runs/; it stands for its path wherever one is taken.

    Errors: `CheckpointError` where there is no such run.
    """

    def __init__(self, path: str | Path):
        self.folder: RunFolder = find_run(path)

    @property
    def path(self) -> Path:
        return self.folder.path

    @property
    def recipe(self) -> Recipe:
        """Every setting of the run."""
        return self.folder.recipe()

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(map(str, self.folder.about()["classes"]))

    @property
    def history(self) -> list[dict[str, Any]]:
        """A row for each logged step ("kind" is "train") and each evaluation ("eval"), in order."""
        return read_rows(self.folder.log)

    @property
    def metrics(self) -> dict[str, Any]:
        """The evaluation of the finished model: "part" (of the data), "count" (of its images), and the metrics by name.
        Of a run that is not finished, its last evaluation; empty where there is none."""
        found = read_evaluations(self.folder)
        parts = sorted(found, key=lambda part: (ORDER.index(part) if part in ORDER else len(ORDER), part))
        if parts:
            return {"part": parts[0], **found[parts[0]]}
        return next((row for row in reversed(self.history) if row.get("kind") == "eval"), {})

    @cached_property
    def predictor(self) -> Predictor:
        """The trained model, ready for images; on a GPU where there is one. Errors: `CheckpointError`."""
        return load_predictor(self.path, "auto")

    @property
    def report(self) -> Path:
        """The HTML page about the run, which is written where there is none."""
        return self.folder.report if self.folder.report.is_file() else build_report(self.path)

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        recipe, metrics, classes = self.recipe, self.metrics, self.classes
        numbers = [f"{k} {v:.4g}" for k, v in metrics.items() if isinstance(v, float) and k not in ABOUT][:SHOWN]
        data = recipe.data.keys.get("path") or recipe.data.name
        evaluated = f"{metrics.get('part', '')}, {many(metrics.get('count', 0), 'image')}: {', '.join(numbers)}"
        return "\n".join(
            [
                f"Run {self.path}: {recipe.model.name} on {data}, {many(recipe.train.steps or 0, 'step')}",
                *([f"  {many(len(classes), 'class', 'classes')}: {list_classes(classes)}"] if classes else []),
                f"  {evaluated}" if numbers else "  no evaluation yet",
                f"  report: {self.folder.report}",
                "  .metrics, .predictor, .report, .history, .recipe, .path",
            ]
        )
