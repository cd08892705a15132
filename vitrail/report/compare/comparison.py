"""Compares runs: recipes, metrics with confidence intervals, disagreements, cost."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vitrail.assembly.run_directory import find_run, hash_of
from vitrail.errors import UsageError, many
from vitrail.metrics.intervals import bootstrap_interval as bounds
from vitrail.metrics.intervals import wilson_interval
from vitrail.recipe import to_tables
from vitrail.report.compare.denoisers import common_qualities, differing_settings
from vitrail.report.run_data import ORDER, Evaluation, RunData, read_evaluation, read_evaluations, read_run
from vitrail.report.sections.images import find_mistakes

METRIC_WORDS = (
    "top1", "mAP", "miou", "macro_f1", "exact", "nll", "calibration_error", "AP50", "dice", "pixel_accuracy",
    "held_out_loss", "mean_recall", "image_to_text_r1", "image_to_text_r10", "text_to_image_r1", "text_to_image_r10",
    "probe_top1", "knn_top1", "feature_std",
)  # fmt: skip
SHARES = ("top1", "exact")  # metrics that are a fraction of the images


class Interval(NamedTuple):
    """A value with its 95 % interval, NaN where it is unknown; `method`: "Wilson", "bootstrap" or ""."""

    value: float
    low: float = float("nan")
    high: float = float("nan")
    method: str = ""


class Disagreement(NamedTuple):
    """Different predictions of two runs for the same images, as indices in the evaluation.

    first, second: only that run is correct; neither: both are wrong, with different predictions; change: the accuracy
    of the second minus that of the first.
    """

    first: np.ndarray
    second: np.ndarray
    neither: np.ndarray
    total: int
    change: Interval


class RunComparison(NamedTuple):
    """Two runs or more. reason: why the metrics are not of the same images, or ""; evaluations: one per run or None."""

    names: list[str]
    runs: list[RunData]
    recipes: list[tuple[str, list[str]]]
    part: str
    reason: str
    evaluations: list[Evaluation | None]
    metrics: list[tuple[str, list[Interval | None]]]
    disagreements: list[Disagreement]  # of the first run and each other one; none where images are not the same


def compare_runs(sources: Sequence[str | Path]) -> RunComparison:
    """Errors: `UsageError` for fewer than two runs or the same one twice, `CheckpointError` for what is not a run."""
    folders = [find_run(source) for source in sources]
    paths = [folder.path.resolve() for folder in folders]
    if len(paths) < 2 or len(set(paths)) < len(paths):
        what = "one run cannot be compared" if len(paths) < 2 else "the same run is given twice"
        raise UsageError(what, "vitrail compare RUN RUN, or more of them")
    runs = [read_run(folder) for folder in folders]
    part, why = common(runs)
    evaluations = [
        read_evaluation(k.folder, part, read_evaluations(k.folder)[part]) if part else k.evaluation for k in runs
    ]
    first, *others = evaluations
    disagreements = []
    if not why and first is not None and all(e is not None and len(e.probabilities) for e in evaluations):
        disagreements = [disagreement(first, e, runs[0].is_multi_label) for e in others if e is not None]
    metrics = table(runs, evaluations)
    metrics += [(name, [Interval(v) for v in values]) for name, values in common_qualities(runs)]
    return RunComparison(
        name_runs(folders), runs, check_different(runs), part, why, evaluations, metrics, disagreements
    )


def name_runs(folders: Sequence[Any]) -> list[str]:
    """Short names, none twice."""
    short = [folder.path.resolve().name for folder in folders]
    return short if len(set(short)) == len(short) else [str(folder.path) for folder in folders]


def check_different(runs: Sequence[RunData]) -> list[tuple[str, list[str]]]:
    """The keys of the recipes whose values are not all the same."""
    flat = [
        {f"{section}.{key}": value for section, keys in to_tables(k.recipe).items() for key, value in keys.items()}
        for k in runs
    ]
    keys = dict.fromkeys(key for one in flat for key in one)
    rows = [(key, [format_value(one[key]) if key in one else "default" for one in flat]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def format_value(value: Any) -> str:
    return ", ".join(map(format_value, value)) if isinstance(value, list) else str(value)


def common(runs: Sequence[RunData]) -> tuple[str, str]:
    """The part that all runs were evaluated on, and why its images are not the same; each "" where there is none."""
    if len(outputs := {k.task.output for k in runs}) > 1:
        return "", "their tasks have different outputs: " + ", ".join(sorted(outputs))
    if any(k.classes != runs[0].classes for k in runs):
        return "", "their classes are not the same"
    evaluations = [read_evaluations(k.folder) for k in runs]
    shared = set.intersection(*(set(parts) for parts in evaluations))
    if not shared:
        parts = "; ".join(", ".join(sorted(parts)) or "not evaluated yet" for parts in evaluations)
        return (
            "",
            f"they were evaluated on different parts of the data ({parts}); vitrail eval RUN --split evaluates another",
        )
    part = min(shared, key=lambda p: (ORDER.index(p) if p in ORDER else len(ORDER), p))
    names = [read_evaluation(k.folder, part, parts[part]).names for k, parts in zip(runs, evaluations, strict=True)]
    if any(len(one) == 0 for one in names):
        same = len({hash_of(k.about.get("data", {})) for k in runs}) == 1
        return part, "" if same else "predictions per image were not saved, and their data is not the same"
    return (
        (part, "")
        if all(one == names[0] for one in names)
        else (part, f"the images of their {part} parts are not the same")
    )


def table(runs: Sequence[RunData], evaluations: Sequence[Evaluation | None]) -> list[tuple[str, list[Interval | None]]]:
    """Every metric that some run has, with its 95 % interval."""
    rows = []
    for name in dict.fromkeys((*METRIC_WORDS, *(run.metric for run in runs))):
        row = [
            measure_interval(name, j, k.is_multi_label) if j and name in j.metrics else None
            for j, k in zip(evaluations, runs, strict=True)
        ]
        if any(row):
            rows.append((name, row))
    return rows


def measure_interval(name: str, evaluation: Evaluation, multi: bool) -> Interval:
    """The Wilson interval of a fraction of images; else the bootstrap over images with saved predictions."""
    value, count = float(evaluation.metrics[name]), int(evaluation.metrics["count"])
    if name in SHARES:
        return Interval(value, *wilson_interval(value, count), "Wilson")
    if name == "held_out_loss" and len(evaluation.rows):
        return Interval(value, *bounds(mean_of(evaluation.rows[:, 0]), count), "bootstrap")
    if not len(evaluation.probabilities) or multi:
        return Interval(value)
    of = {"macro_f1": f1_of, "nll": nll_of}.get(name)
    if of is None:
        return Interval(value)
    return Interval(value, *bounds(of(evaluation), count), "bootstrap")


def mean_of(each: np.ndarray) -> Callable[[np.ndarray], float]:
    return lambda indices: float(each[indices].mean())


def nll_of(evaluation: Evaluation) -> Callable[[np.ndarray], float]:
    each = -np.log(np.take_along_axis(evaluation.probabilities, evaluation.targets[:, None], 1)[:, 0].clip(1e-12))
    return mean_of(each)


def f1_of(evaluation: Evaluation) -> Callable[[np.ndarray], float]:
    """Mean F1 of the classes that occur."""
    predictions, targets, k = evaluation.probabilities.argmax(1), evaluation.targets, evaluation.probabilities.shape[1]

    def score(indices: np.ndarray) -> float:
        s, t = predictions[indices], targets[indices]
        hit, predicted, present = (np.bincount(x, minlength=k) for x in (t[s == t], s, t))
        return float((2 * hit / (predicted + present).clip(1))[present > 0].mean())

    return score


def disagreement(one: Evaluation, other: Evaluation, multi: bool) -> Disagreement:
    """A multi-label prediction is correct if all labels are."""
    (a, _), (b, _) = (find_mistakes(j, multi) for j in (one, other))
    answers = [j.probabilities >= 0.5 if multi else j.probabilities.argmax(1)[:, None] for j in (one, other)]
    differ = (answers[0] != answers[1]).any(1)
    gain = a.astype(float) - b
    change = Interval(float(gain.mean()), *bounds(lambda indices: float(gain[indices].mean()), len(gain)), "bootstrap")
    first, second, neither = (most_confident(which, one, other) for which in (~a & b, a & ~b, a & b & differ))
    return Disagreement(first, second, neither, len(a), change)


def most_confident(which: np.ndarray, one: Evaluation, other: Evaluation) -> np.ndarray:
    """Indices of images, those with the largest difference between the predictions first."""
    indices = np.flatnonzero(which)
    apart = np.abs(one.probabilities[indices] - other.probabilities[indices]).sum(1)
    ranked: np.ndarray = indices[np.argsort(-apart, kind="stable")]
    return ranked


def describe_comparison(comparison: RunComparison) -> list[str]:
    """The comparison in sentences of plain text."""
    sentences = []
    if comparison.reason:
        sentences.append(
            f"Their metrics are not of the same images ({comparison.reason}), so the difference is not tested."
        )
    for name, other in zip(comparison.names[1:], comparison.disagreements, strict=False):
        low, high, gain = 100 * other.change.low, 100 * other.change.high, 100 * other.change.value
        between = f"95 % interval {low:+.2f} to {high:+.2f}, bootstrap over the same {many(other.total, 'image')}"
        order = "more" if gain >= 0 else "less"
        sentences.append(
            f"{name} is {abs(gain):.2f} points {order} accurate than {comparison.names[0]} ({between}); "
            f"{significance(low, high)}."
        )
        sentences.append(
            f"Only {comparison.names[0]} is correct on {many(len(other.first), 'image')}, "
            f"only {name} on {len(other.second):,}; "
            f"both are wrong with different predictions on {len(other.neither):,}."
        )
    sentences += describe_losses(comparison)
    if not comparison.recipes:
        sentences.append("Their recipes are the same.")
    return sentences


def significance(low: float, high: float) -> str:
    """Whether an interval of a difference excludes 0."""
    return "statistically significant" if low * high > 0 else "not statistically significant"


def describe_losses(comparison: RunComparison) -> list[str]:
    """The paired difference of the held-out losses of denoisers, or why they cannot be compared."""
    if not all(run.task.is_generative for run in comparison.runs):
        return []
    if settings := differing_settings(comparison.runs):
        return [f"Their held-out losses measure different things and cannot be compared ({', '.join(settings)})."]
    rows = [j.rows[:, 0] for j in comparison.evaluations if j is not None and len(j.rows)]
    if comparison.reason or len(rows) < len(comparison.runs):
        return []
    sentences = []
    for name, other in zip(comparison.names[1:], rows[1:], strict=True):
        change = other - rows[0]
        low, high = bounds(mean_of(change), len(change))
        sentences.append(
            f"The held-out loss of {name} is {change.mean():+.4f} against that of {comparison.names[0]} "
            f"(95 % interval {low:+.4f} to {high:+.4f}, bootstrap over the same {len(change):,} images, each with the "
            f"same noise); {significance(low, high)}."
        )
    return sentences


def list_costs(runs: Iterable[RunData]) -> list[tuple[str, list[str]]]:
    """The cost of each run: names, and one value per run."""
    from vitrail.report.page.words import format_duration, format_short

    rows = [("parameters", [f"{k.about.get('parameters', 0):,}" for k in runs])]
    rows.append(("multiply-adds an image", [format_short(k.cost.macs) if k.cost else "" for k in runs]))
    rows.append(("steps", [f"{k.steps_done:,}" + ("" if k.is_finished else f" of {k.steps:,}") for k in runs]))
    rows.append(("images seen", [f"{k.steps_done * (k.recipe.train.batch_size or 1):,}" for k in runs]))
    rows.append(("time", [format_duration(k.seconds) for k in runs]))
    return rows
