"""The top of the page: how good the model is, how to make and use it again, and how the training went."""

import shlex
from collections.abc import Callable

from vitrail.report.page import words
from vitrail.report.page.charts import Series, draw_chart
from vitrail.report.page.markup import Section, escape_name, escape_text, render_paragraphs, table
from vitrail.report.page.words import THIN, format_duration, format_percent, format_plural, format_short
from vitrail.report.run_data import RunData, Score
from vitrail.report.sections import dense

SPOKEN = {
    "top1": "Accuracy", "top5": "Top-5 accuracy", "mAP": "Mean average precision", "macro_f1": "Mean F1",
    "exact": "All labels right", "nll": "Negative log-likelihood", "calibration_error": "Calibration error",
    "held_out_loss": "Held-out loss", "miou": "Mean IoU", "dice": "Dice", "pixel_accuracy": "Right pixels", "AP50": "AP50", "AP75": "AP75",
}  # fmt: skip


def headline(known: RunData) -> str:
    """The model, the data, the number that counts, and what it took."""
    data = known.recipe.data.keys.get("path") or known.recipe.data.name
    title = f"{escape_text(known.recipe.model.name)} <span>on</span> {escape_name(str(data).rstrip('/').rpartition('/')[2])}"
    banner = "" if known.is_finished else f'<p class="banner">{unfinished(known)}</p>'
    score = known.score
    told = counted(known, score) if score else "<p>It has not been judged yet.</p>"
    tiles = "".join(f"<div><dt>{escape_text(what)}</dt><dd>{value}</dd></div>" for what, value in numbers(known))
    return f"<header>{banner}<h1>{title}</h1>{told}<dl>{tiles}</dl></header>"


def unfinished(known: RunData) -> str:
    where = f"step {known.steps_done:,} of {known.steps:,}" if known.steps_done else "no step is logged yet"
    return f"<b>This run is not finished</b>: {where}. What comes at the end of a run is left out below."


def spoken(known: RunData) -> str:
    """The metric that ranks models, as a heading has it."""
    return SPOKEN.get(known.metric, known.metric)


def counted(known: RunData, score: Score) -> str:
    """The score, large, with what it is a score of."""
    what = spoken(known)
    near = ""
    if known.metric == "top1" and score.images:
        low, high = words.wilson_interval(score.value, score.images)
        near = f"95{THIN}% interval {100 * low:.1f} to {format_percent(high)}"
    part = f"{what} on the {escape_text(score.part)} part, {format_plural(score.images, 'image')}"
    part += "" if known.evaluation else f", after step {score.step:,}"
    metrics = known.evaluation.metrics if known.evaluation else {}
    more = words.describe_baseline(metrics, known.classes) if known.metric == "top1" else []
    return f'<div class="score"><b>{format_metric(known)(score.value)}</b><div><p>{part}</p><p>{near}</p></div></div>{render_paragraphs(more)}'


def format_metric(known: RunData) -> Callable[[float], str]:
    """How the metric is written: as a share, or as the number it is."""
    return (lambda value: f"{value:.4g}") if known.is_lower_better else format_percent


def numbers(known: RunData) -> list[tuple[str, str]]:
    """What stands beside the score: names and HTML."""
    found = [
        ("Time", format_duration(known.seconds)),
        ("Steps", f"{known.steps_done:,}" if known.is_finished else f"{known.steps_done:,} of {known.steps:,}"),
    ]
    found.append(
        (
            "Parameters",
            f'<span title="{known.about.get("parameters", 0):,}">{format_short(known.about.get("parameters", 0))}</span>',
        )
    )
    metrics = known.evaluation.metrics if known.evaluation else {}
    if "top5" in metrics and len(known.classes) > 5:
        found.append((SPOKEN["top5"], format_percent(metrics["top5"])))
    if "macro_f1" in metrics:
        found.append((SPOKEN["macro_f1"], f"{metrics['macro_f1']:.3f}"))
    if "exact" in metrics:
        found.append((SPOKEN["exact"], format_percent(metrics["exact"])))
    found += dense.summary(metrics)
    found += [
        (f"{spoken(known)}, {part}", format_metric(known)(m[known.metric]))
        for part, m in known.others.items()
        if known.metric in m
    ]
    return found


def commands(known: RunData) -> Section | None:
    """What was typed, and what one types to go on, to judge and to use it."""
    folder = shlex.quote(str(known.folder.path))
    rows = [("Made by", shlex.join(map(str, known.about.get("command", ["vitrail"]))))]
    plan = known.recipe.train
    length = (
        f" --steps {plan.steps}" if plan.epochs is not None else ""
    )  # a saved recipe says both; one of them must be meant
    rows.append(
        ("Make it again", f"vitrail train {shlex.quote(str(known.folder.recipe_file))}{length} --out ANOTHER_FOLDER")
    )
    if not known.is_finished:
        rows.append(("Go on", f"vitrail train --resume {folder}"))
    else:
        rows.append(
            (
                "Train it further",
                f"vitrail train --resume {folder} --steps {2 * known.steps} --allow-change train.steps",
            )
        )
    use = (
        ("Make images", f"vitrail sample {folder}")
        if known.task.is_generative
        else ("Say what is in images", f"vitrail predict {folder} IMAGE...")
    )
    rows += [use, ("Judge it again", f"vitrail eval {folder}")]
    body = "".join(f"<dt>{escape_text(what)}</dt><dd><pre>{escape_text(line)}</pre></dd>" for what, line in rows)
    said = ["The recipe in the folder holds every setting and the seed, so the second command repeats the run."]
    return Section("commands", "Run it again", said, f'<dl class="commands">{body}</dl>')


def curves(known: RunData) -> Section | None:
    """How the numbers went, step by step."""
    losses = series(known.training, "loss")
    if not losses:
        return None
    parts = list(dict.fromkeys(str(row.get("part", "")) for row in known.evals))
    scores = {
        part: series([row for row in known.evals if str(row.get("part", "")) == part], known.metric) for part in parts
    }
    longest = max(scores, key=lambda part: len(scores[part]), default="")
    title = spoken(known) if known.is_lower_better else f"{spoken(known)}, held out"
    drawn = [
        draw_chart("Training loss", [Series("", losses)]),
        draw_chart(
            title,
            [Series(part if len(scores) > 1 else "", points) for part, points in scores.items()],
            format_metric(known),
        ),
        draw_chart(
            "Learning rate", [Series("", series(known.training, "lr"))], lambda v: f"{v:.3g}", zero=True, peak=True
        ),
        draw_chart("Gradient norm", [Series("", series(known.training, "grad_norm"))], zero=True),
        draw_chart("Images per second", [Series("", series(known.training, "images_per_s"))], zero=True),
    ]
    said = words.describe_curves(
        losses, [] if known.is_lower_better else scores.get(longest, []), spoken(known), longest
    )
    said += stopped(known)
    return Section(
        "curves", "How it went", said, f'<div class="charts">{"".join(drawn)}</div>' + list_evaluations(known)
    )


def stopped(known: RunData) -> list[str]:
    """That a finished run did not go to its last step, and which weights it kept."""
    patience, scores = known.recipe.train.patience, series(known.evals[:-1], known.metric)
    if not (patience and scores and known.is_finished and known.steps_done < known.steps):
        return []
    step, value = max(scores, key=lambda point: (-point[1] if known.is_lower_better else point[1], -point[0]))
    return [
        f"It stopped early at step {known.steps_done:,} of {known.steps:,}: no better than {format_metric(known)(value)} at step {int(step):,} for "
        f"{format_plural(patience, 'evaluation')}. The finished weights are those of that step."
    ]


def list_evaluations(known: RunData) -> str:
    """Every judgement of the log as a table, folded away."""
    keys = [key for key in SPOKEN if any(key in row for row in known.evals)]
    if not keys:
        return ""
    rows = [
        [
            f"{row['step']:,}",
            escape_text(row.get("part", "")),
            *(f"{row[k]:.4f}" if isinstance(row.get(k), float) else "" for k in keys),
        ]
        for row in known.evals
    ]
    head = ["Step", "Part", *(SPOKEN[key] for key in keys)]
    return (
        f"<details><summary>{format_plural(len(rows), 'judgement')} in numbers</summary>{table(head, rows)}</details>"
    )


def series(rows: list[dict], key: str) -> list[tuple[float, float]]:
    """(step, value) of every row that has a finite number there."""
    return [(row["step"], row[key]) for row in rows if isinstance(row.get(key), int | float)]
