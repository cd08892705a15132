"""The top of the page: the main metric, the commands of the run, and the training curves."""

from collections.abc import Callable
from typing import Any

from vitrail.metrics.intervals import wilson_interval
from vitrail.report.page import words
from vitrail.report.page.charts import Series, draw_chart
from vitrail.report.page.markup import Section, escape_name, escape_text, render_paragraphs, table
from vitrail.report.page.words import THIN, format_duration, format_percent, format_plural, format_short
from vitrail.report.run_data import RunData, Score
from vitrail.report.sections import dense
from vitrail.storage.printable import shell_word

METRIC_NAMES = {
    "top1": "Accuracy", "top5": "Top-5 accuracy", "mAP": "Mean average precision", "macro_f1": "Mean F1",
    "exact": "Exact match", "nll": "Negative log-likelihood", "calibration_error": "Calibration error",
    "held_out_loss": "Held-out loss", "miou": "Mean IoU", "dice": "Dice", "pixel_accuracy": "Pixel accuracy",
    "AP50": "AP50", "AP75": "AP75", "mean_recall": "Mean recall",
}  # fmt: skip


def headline(run: RunData) -> str:
    """The model, the data, the main metric, and the key figures of the run."""
    data = run.recipe.data.keys.get("path") or run.recipe.data.name
    name = str(data).rstrip("/").rpartition("/")[2]
    title = f"{escape_text(run.recipe.model.name)} <span>on</span> {escape_name(name)}"
    banner = "" if run.is_finished else f'<p class="banner">{render_banner(run)}</p>'
    score = run.score
    score_html = render_score(run, score) if score else "<p>Not evaluated yet.</p>"
    tiles = "".join(f"<div><dt>{escape_text(what)}</dt><dd>{value}</dd></div>" for what, value in key_figures(run))
    return f"<header>{banner}<h1>{title}</h1>{score_html}<dl>{tiles}</dl></header>"


def render_banner(run: RunData) -> str:
    where = f"step {run.steps_done:,} of {run.steps:,}" if run.steps_done else "no step is logged yet"
    return f"<b>This run is not finished</b>: {where}. Sections that need the final evaluation are omitted."


def metric_name(run: RunData) -> str:
    """The heading of the main metric."""
    return METRIC_NAMES.get(run.metric, run.metric)


def render_score(run: RunData, score: Score) -> str:
    """The score in large type, with its metric, part and interval."""
    what = metric_name(run)
    interval = ""
    if run.metric == "top1" and score.images:
        low, high = wilson_interval(score.value, score.images)
        interval = f"95{THIN}% interval {100 * low:.1f} to {format_percent(high)}"
    elif run.evaluation and "interval" in run.evaluation.metrics:
        ends = [format_metric(run)(run.evaluation.metrics["interval"][end]) for end in ("low", "high")]
        interval = f"95{THIN}% interval {' to '.join(ends)}"
    part = f"{what} on the {escape_text(score.part)} part, {format_plural(score.images, 'image')}"
    part += "" if run.evaluation else f", after step {score.step:,}"
    metrics = run.evaluation.metrics if run.evaluation else {}
    more = words.describe_baseline(metrics, run.classes) if run.metric == "top1" else []
    more += describe_weights(score.part, metrics.get("weights", {}))
    value = format_metric(run)(score.value)
    paragraphs = render_paragraphs(more)
    return f'<div class="score"><b>{value}</b><div><p>{part}</p><p>{interval}</p></div></div>{paragraphs}'


def describe_weights(part: str, weights: dict[str, Any]) -> list[str]:
    """Which weights the score is of, and whether they were chosen on the same images: then it is no test result."""
    if "step" not in weights:
        return []
    chosen = f"The weights are those of step {weights['step']:,}, the best on the {escape_text(weights['part'])} part"
    if weights["part"] == part:
        return [f"{chosen}: they were chosen on these images, so new images may do a little worse."]
    return [f"{chosen}, which has none of these images."]


def format_metric(run: RunData) -> Callable[[float], str]:
    """The format of the metric: as a percentage, or as a number."""
    return (lambda value: f"{value:.4g}") if run.is_lower_better else format_percent


def key_figures(run: RunData) -> list[tuple[str, str]]:
    """The key figures beside the score: names and HTML."""
    figures = [
        ("Time", format_duration(run.seconds)),
        ("Steps", f"{run.steps_done:,}" if run.is_finished else f"{run.steps_done:,} of {run.steps:,}"),
    ]
    figures.append(
        (
            "Parameters",
            f'<span title="{run.about.get("parameters", 0):,}">{format_short(run.about.get("parameters", 0))}</span>',
        )
    )
    metrics = run.evaluation.metrics if run.evaluation else {}
    if "top5" in metrics:
        figures.append((METRIC_NAMES["top5"], format_percent(metrics["top5"])))
    if "macro_f1" in metrics:
        figures.append((METRIC_NAMES["macro_f1"], f"{metrics['macro_f1']:.3f}"))
    if "exact" in metrics:
        figures.append((METRIC_NAMES["exact"], format_percent(metrics["exact"])))
    figures += dense.summary(metrics)
    figures += [
        (f"{metric_name(run)}, {part}", format_metric(run)(m[run.metric]))
        for part, m in run.others.items()
        if run.metric in m
    ]
    return figures


def commands(run: RunData) -> Section | None:
    """The command of the run, and those to reproduce, resume, evaluate and use it."""
    folder = shell_word(str(run.folder.path))
    rows = [("Command", " ".join(map(shell_word, map(str, run.about.get("command", ["vitrail"])))))]
    plan = run.recipe.train
    # a saved recipe has both epochs and steps, and --steps overrides the epochs
    length = f" --steps {plan.steps}" if plan.epochs is not None else ""
    rows.append(("Reproduce", f"vitrail train {shell_word(str(run.folder.recipe_file))}{length} --out ANOTHER_FOLDER"))
    if not run.is_finished:
        rows.append(("Resume", f"vitrail train --resume {folder}"))
    else:
        rows.append(
            (
                "Train for longer",
                f"vitrail train --resume {folder} --steps {2 * run.steps} --allow-change train.steps",
            )
        )
    use = (
        ("Generate images", f"vitrail sample {folder}")
        if run.task.is_generative
        else ("Predict", f"vitrail predict {folder} IMAGE...")
    )
    rows += [use, ("Evaluate again", f"vitrail eval {folder}")]
    body = "".join(f"<dt>{escape_text(what)}</dt><dd><pre>{escape_text(line)}</pre></dd>" for what, line in rows)
    sentences = ["The recipe in the folder has every setting and the seed, so the second command reproduces the run."]
    return Section("commands", "Commands", sentences, f'<dl class="commands">{body}</dl>')


def curves(run: RunData) -> Section | None:
    """Losses and metrics over steps."""
    losses = series(run.training, "loss")
    if not losses:
        return None
    parts = list(dict.fromkeys(str(row.get("part", "")) for row in run.evals))
    scores = {
        part: series([row for row in run.evals if str(row.get("part", "")) == part], run.metric) for part in parts
    }
    longest = max(scores, key=lambda part: len(scores[part]), default="")
    title = metric_name(run) if run.is_lower_better else f"{metric_name(run)}, held-out"
    charts = [
        draw_chart("Training loss", [Series("", losses)]),
        draw_chart(
            title,
            [Series(part if len(scores) > 1 else "", points) for part, points in scores.items()],
            format_metric(run),
        ),
        draw_chart(
            "Learning rate", [Series("", series(run.training, "lr"))], lambda v: f"{v:.3g}", zero=True, peak=True
        ),
        draw_chart("Gradient norm", [Series("", series(run.training, "grad_norm"))], zero=True),
        draw_chart("Images per second", [Series("", series(run.training, "images_per_s"))], zero=True),
    ]
    sentences = words.describe_curves(
        losses, [] if run.is_lower_better else scores.get(longest, []), metric_name(run), longest
    )
    sentences += describe_early_stopping(run)
    return Section(
        "curves", "Training curves", sentences, f'<div class="charts">{"".join(charts)}</div>' + list_evaluations(run)
    )


def describe_early_stopping(run: RunData) -> list[str]:
    """Whether a finished run was stopped early, and the step of its weights."""
    patience, scores = run.recipe.train.patience, series(run.evals[:-1], run.metric)
    if not (patience and scores and run.is_finished and run.steps_done < run.steps):
        return []
    step, value = max(scores, key=lambda point: (-point[1] if run.is_lower_better else point[1], -point[0]))
    return [
        f"Early stopping at step {run.steps_done:,} of {run.steps:,}: no improvement over "
        f"{format_metric(run)(value)} (step {int(step):,}) in {format_plural(patience, 'evaluation')}. "
        "The final weights are those of that step."
    ]


def list_evaluations(run: RunData) -> str:
    """Every evaluation of the log as a collapsed table."""
    keys = [key for key in METRIC_NAMES if any(key in row for row in run.evals)]
    if not keys:
        return ""
    rows = [
        [
            f"{row['step']:,}",
            escape_text(row.get("part", "")),
            *(f"{row[k]:.4f}" if isinstance(row.get(k), float) else "" for k in keys),
        ]
        for row in run.evals
    ]
    head = ["Step", "Part", *(METRIC_NAMES[key] for key in keys)]
    return f"<details><summary>{format_plural(len(rows), 'evaluation')}</summary>{table(head, rows)}</details>"


def series(rows: list[dict], key: str) -> list[tuple[float, float]]:
    """(step, value) of every row with a finite number."""
    return [(row["step"], row[key]) for row in rows if isinstance(row.get(key), int | float)]
