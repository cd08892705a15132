"""Runs side by side: what differs in their recipes, how good each is and how sure that is, where they disagree, what they cost."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vitrail.assembly.run_directory import find_run
from vitrail.errors import UsageError
from vitrail.recipe import to_tables
from vitrail.report.compare.denoisers import common_qualities, differing_settings
from vitrail.report.page.words import wilson_interval
from vitrail.report.run_data import ORDER, Evaluation, RunData, read_evaluation, read_evaluations, read_run
from vitrail.report.sections.images import find_mistakes

RESAMPLES = 1000
LEVEL = 0.95
METRIC_WORDS = (
    "top1",
    "mAP",
    "miou",
    "macro_f1",
    "exact",
    "nll",
    "calibration_error",
    "AP50",
    "dice",
    "pixel_accuracy",
    "held_out_loss",
)
SHARES = ("top1", "exact")  # metrics that are a share of the images
MOST = 1 << 27  # numbers that all resamples may go through


class Interval(NamedTuple):
    """A number with what it may be by chance of the images, NaN where that is not known; `method`: "Wilson", "bootstrap" or ""."""

    value: float
    low: float = float("nan")
    high: float = float("nan")
    method: str = ""


class Disagreement(NamedTuple):
    """What two runs say otherwise of the same images, by their places in the judgement: only the first is right, only the second,
    both wrong in different ways. `change`: the share right of the second less that of the first."""

    first: np.ndarray
    second: np.ndarray
    neither: np.ndarray
    total: int
    change: Interval


class RunComparison(NamedTuple):
    """Two runs or more. `why` says why their numbers are not of the same images; "" where they are. `judged`: one a run, or none."""

    names: list[str]
    runs: list[RunData]
    recipes: list[tuple[str, list[str]]]
    part: str
    reason: str
    judged: list[Evaluation | None]
    metrics: list[tuple[str, list[Interval | None]]]
    disagreements: list[Disagreement]  # of the first run and each other one; none where images are not the same


def compare_runs(sources: Sequence[str | Path]) -> RunComparison:
    """Errors: `UsageError` for fewer than two runs or the same one twice, `CheckpointError` for what is no run."""
    folders = [find_run(source) for source in sources]
    paths = [folder.path.resolve() for folder in folders]
    if len(paths) < 2 or len(set(paths)) < len(paths):
        what = "one run cannot be compared" if len(paths) < 2 else "the same run is given twice"
        raise UsageError(what, "vitrail compare RUN RUN, or more of them")
    runs = [read_run(folder) for folder in folders]
    part, why = common(runs)
    judged = [read_evaluation(k.folder, part, read_evaluations(k.folder)[part]) if part else k.evaluation for k in runs]
    kept = why == "" and all(j is not None and len(j.probabilities) for j in judged)
    disagreements = [disagreement(judged[0], other, runs[0].is_multi_label) for other in judged[1:]] if kept else []  # type: ignore[arg-type]
    metrics = table(runs, judged)
    metrics += [(name, [Interval(v) for v in values]) for name, values in common_qualities(runs)]
    return RunComparison(name_runs(folders), runs, check_different(runs), part, why, judged, metrics, disagreements)


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
    """The part of the data that all runs are judged on ("" where there is none), and why it is not of the same images ("" where it
    is)."""
    if len(told := {k.task.output for k in runs}) > 1:
        return "", "they tell different things: " + ", ".join(sorted(told))
    if any(k.classes != runs[0].classes for k in runs):
        return "", "their classes are not the same"
    found = [read_evaluations(k.folder) for k in runs]
    shared = set.intersection(*(set(parts) for parts in found))
    if not shared:
        parts = "; ".join(", ".join(sorted(parts)) or "not judged yet" for parts in found)
        return (
            "",
            f"they are judged on different parts of the data ({parts}); vitrail eval RUN --split judges on another",
        )
    part = min(shared, key=lambda p: (ORDER.index(p) if p in ORDER else len(ORDER), p))
    names = [read_evaluation(k.folder, part, parts[part]).names for k, parts in zip(runs, found, strict=True)]
    if any(len(one) == 0 for one in names):
        same = len({k.about.get("data", {}).get("content") for k in runs}) == 1
        return part, "" if same else "what was said of each image is not kept, and their data is not the same"
    return (
        (part, "")
        if all(one == names[0] for one in names)
        else (part, f"the images of their {part} parts are not the same")
    )


def table(runs: Sequence[RunData], judged: Sequence[Evaluation | None]) -> list[tuple[str, list[Interval | None]]]:
    """Every metric that some run has, each with its interval of 95 %."""
    rows = []
    for name in METRIC_WORDS:
        row = [
            measure_interval(name, j, k.is_multi_label) if j and name in j.metrics else None
            for j, k in zip(judged, runs, strict=True)
        ]
        if any(row):
            rows.append((name, row))
    return rows


def measure_interval(name: str, judged: Evaluation, multi: bool) -> Interval:
    """Wilson's interval of a share of images; of other metrics the bootstrap over images, where what was said of each is kept."""
    value, count = float(judged.metrics[name]), int(judged.metrics["count"])
    if name in SHARES:
        return Interval(value, *wilson_interval(value, count), "Wilson")
    if name == "held_out_loss" and len(judged.rows):
        return Interval(value, *bounds(mean_of(judged.rows[:, 0]), count), "bootstrap")
    if not len(judged.probabilities) or multi:
        return Interval(value)
    of = {"macro_f1": f1_of, "nll": nll_of}.get(name)
    if of is None:
        return Interval(value)
    return Interval(value, *bounds(of(judged), count), "bootstrap")


def bounds(of: Callable[[np.ndarray], float], count: int) -> tuple[float, float]:
    """The middle 95 % of a number over images drawn with replacement, the same draw for every run."""
    chance = np.random.default_rng(0)
    times = max(100, min(RESAMPLES, MOST // max(1, count)))
    found = [of(chance.integers(0, count, count)) for _ in range(times)]
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def mean_of(each: np.ndarray) -> Callable[[np.ndarray], float]:
    return lambda drawn: float(each[drawn].mean())


def nll_of(judged: Evaluation) -> Callable[[np.ndarray], float]:
    each = -np.log(np.take_along_axis(judged.probabilities, judged.targets[:, None], 1)[:, 0].clip(1e-12))
    return mean_of(each)


def f1_of(judged: Evaluation) -> Callable[[np.ndarray], float]:
    """Mean F1 of the classes that are there."""
    said, true, k = judged.probabilities.argmax(1), judged.targets, judged.probabilities.shape[1]

    def score(drawn: np.ndarray) -> float:
        s, t = said[drawn], true[drawn]
        hit, told, there = (np.bincount(x, minlength=k) for x in (t[s == t], s, t))
        return float((2 * hit / (told + there).clip(1))[there > 0].mean())

    return score


def disagreement(one: Evaluation, other: Evaluation, multi: bool) -> Disagreement:
    """Right is what is wholly right where an image has several labels."""
    (a, _), (b, _) = (find_mistakes(j, multi) for j in (one, other))
    answers = [j.probabilities >= 0.5 if multi else j.probabilities.argmax(1)[:, None] for j in (one, other)]
    otherwise = (answers[0] != answers[1]).any(1)
    gain = a.astype(float) - b
    change = Interval(float(gain.mean()), *bounds(lambda drawn: float(gain[drawn].mean()), len(gain)), "bootstrap")
    first, second, neither = (most_confident(which, one, other) for which in (~a & b, a & ~b, a & b & otherwise))
    return Disagreement(first, second, neither, len(a), change)


def most_confident(which: np.ndarray, one: Evaluation, other: Evaluation) -> np.ndarray:
    """Places of images, those first of which the two runs say the most different things."""
    places = np.flatnonzero(which)
    apart = np.abs(one.probabilities[places] - other.probabilities[places]).sum(1)
    found: np.ndarray = places[np.argsort(-apart, kind="stable")]
    return found


def describe_comparison(found: RunComparison) -> list[str]:
    """What can be said of the runs, in plain text."""
    said = []
    if found.reason:
        said.append(
            f"Their numbers are not of the same images: {found.reason}. They stand beside each other and prove nothing."
        )
    for name, other in zip(found.names[1:], found.disagreements, strict=False):
        low, high, gain = 100 * other.change.low, 100 * other.change.high, 100 * other.change.value
        between = f"95 % interval {low:+.2f} to {high:+.2f}, bootstrap over the same {other.total:,} images"
        sure = "so the difference is no chance of the images" if low * high > 0 else "so it may be chance of the images"
        said.append(f"{name} is right {gain:+.2f} points more often than {found.names[0]} ({between}), {sure}.")
        said.append(f"Only {found.names[0]} is right on {len(other.first):,} images, only {name} on {len(other.second):,}; both are "
                    f"wrong in different ways on {len(other.neither):,}.")  # fmt: skip
    said += describe_losses(found)
    if not found.recipes:
        said.append("Their recipes are the same.")
    return said


def describe_losses(found: RunComparison) -> list[str]:
    """How denoisers differ in their loss of the same images, or why that says nothing."""
    if not all(known.task.is_generative for known in found.runs):
        return []
    if apart := differing_settings(found.runs):
        return [f"Their held-out losses measure different things and cannot be compared ({', '.join(apart)})."]
    rows = [j.rows[:, 0] for j in found.judged if j is not None and len(j.rows)]
    if found.reason or len(rows) < len(found.runs):
        return []
    said = []
    for name, other in zip(found.names[1:], rows[1:], strict=True):
        change = other - rows[0]
        low, high = bounds(mean_of(change), len(change))
        sure = "so the difference is no chance of the images" if low * high > 0 else "so it may be chance of the images"
        said.append(f"The held-out loss of {name} is {change.mean():+.4f} against that of {found.names[0]} (95 % interval {low:+.4f} to "
                    f"{high:+.4f}, bootstrap over the same {len(change):,} images, each with the same noise), {sure}.")  # fmt: skip
    return said


def list_costs(runs: Iterable[RunData]) -> list[tuple[str, list[str]]]:
    """What each took: names and one value a run."""
    from vitrail.report.page.words import format_duration, format_short

    rows = [("parameters", [f"{k.about.get('parameters', 0):,}" for k in runs])]
    rows.append(("multiply-adds an image", [format_short(k.cost.macs) if k.cost else "" for k in runs]))
    rows.append(("steps", [f"{k.steps_done:,}" + ("" if k.is_finished else f" of {k.steps:,}") for k in runs]))
    rows.append(("images seen", [f"{k.steps_done * (k.recipe.train.batch_size or 1):,}" for k in runs]))
    rows.append(("time", [format_duration(k.seconds) for k in runs]))
    return rows
