"""The HTML page that compares runs side by side."""

from collections.abc import Iterable, Sequence
from itertools import islice

from vitrail.report.compare import comparison as v
from vitrail.report.page.charts import Series, draw_chart
from vitrail.report.page.markup import Section, escape_name, escape_text, table
from vitrail.report.page.words import format_percent
from vitrail.report.sections import generated
from vitrail.report.sections.headline import METRIC_NAMES, format_metric, series
from vitrail.report.sections.images import thumbnail

MOST = 8  # images of each kind of disagreement


def format_interval(interval: v.Interval | None) -> str:
    """A number with its interval, as text."""
    if interval is None:
        return ""
    return f"{interval.value:.4f}" + (f" ({interval.low:.4f} to {interval.high:.4f})" if interval.method else "")


def render_page(comparison: v.RunComparison) -> str:
    """The whole page, top to bottom."""
    from vitrail.report.page.run_page import render_head, render_section
    from vitrail.report.page.style import SCRIPT

    title = " and ".join(comparison.names) if len(comparison.names) == 2 else f"{len(comparison.names)} runs"
    sections = [
        Section(
            "metrics",
            metric_title(comparison),
            [escape_text(s) for s in v.describe_comparison(comparison)],
            metrics(comparison),
        ),
        Section(
            "recipes",
            "Differences of the recipes",
            [],
            table(["Setting", *map(escape_name, comparison.names)], rows(comparison.recipes), "facts"),
        ),
        Section("curves", "Training curves", [], f'<div class="charts">{"".join(curves(comparison))}</div>'),
        *disagreements(comparison),
        Section(
            "cost",
            "Cost",
            [],
            table(["", *map(escape_name, comparison.names)], rows(v.list_costs(comparison.runs)), "facts"),
        ),
    ]
    links = " ".join(f'<a href="#{s.key}">{escape_text(s.title)}</a>' for s in sections)
    return (
        f"{render_head(title)}<body><main><header><h1>{escape_text(title)} <span>side by side</span></h1></header>"
        f"<nav>{links}</nav>"
        f"{''.join(map(render_section, sections))}</main><script>{SCRIPT}</script></body></html>\n"
    )


def metric_title(comparison: v.RunComparison) -> str:
    return f"Metrics of the {comparison.part} part" if comparison.part else "Metrics"


def rows(pairs: Sequence[tuple[str, list[str]]]) -> list[list[str]]:
    return [[escape_text(key), *map(escape_text, values)] for key, values in pairs]


def metrics(comparison: v.RunComparison) -> str:
    ways = {key: next((i.method for i in row if i and i.method), "") for key, row in comparison.metrics}
    headings = {**generated.METRIC_NAMES, **METRIC_NAMES}
    body = [
        [escape_text(headings.get(key, key)), *(escape_text(format_interval(i)) for i in row), escape_text(ways[key])]
        for key, row in comparison.metrics
    ]
    return table(["", *map(escape_name, comparison.names), "95 % interval"], body, "facts")


def curves(comparison: v.RunComparison) -> list[str]:
    """Losses and scores of all runs, each in one chart."""
    losses = [Series(n, series(k.training, "loss")) for n, k in zip(comparison.names, comparison.runs, strict=True)]
    charts = [draw_chart("Training loss", losses)]
    metric = comparison.runs[0].metric
    if all(k.metric == metric for k in comparison.runs):
        scores = [Series(n, series(k.evals, metric)) for n, k in zip(comparison.names, comparison.runs, strict=True)]
        first = comparison.runs[0]
        title = METRIC_NAMES[metric] if first.is_lower_better else f"{METRIC_NAMES[metric]}, held-out"
        charts.append(draw_chart(title, scores, format_metric(first)))
    return charts


def disagreements(comparison: v.RunComparison) -> list[Section]:
    """Images for which the first run and another one have different predictions."""
    sections = []
    for number, other in enumerate(comparison.disagreements, 1):
        a, b = comparison.names[0], comparison.names[number]
        groups = (
            (f"Only {a} is correct", other.first),
            (f"Only {b} is correct", other.second),
            ("Both are wrong, differently", other.neither),
        )
        body = "".join(
            f"<h3>{escape_text(title)}: {len(indices):,}</h3>{render_images(comparison, number, indices)}"
            for title, indices in groups
        )
        sections.append(
            Section(
                f"disagree-{number}",
                f"Where {a} and {b} disagree",
                [f"Of each kind, the {MOST} images with the largest difference between the predicted probabilities."],
                body,
            )
        )
    return sections


def render_images(comparison: v.RunComparison, number: int, indices: Iterable[int]) -> str:
    """Cards of a few images: the annotation, and both predictions."""
    run, one, other = comparison.runs[0], comparison.evaluations[0], comparison.evaluations[number]
    split = run.dataset.splits.get(comparison.part) if run.dataset else None
    if split is None or one is None or other is None:
        return ""
    where = {split.names[i]: i for i in range(len(split))}
    cards = []
    for index in islice(indices, MOST):
        source = thumbnail(split, where.get(one.names[index]))
        if source:
            pairs = ((comparison.names[0], one), (comparison.names[number], other))
            predictions = "; ".join(
                f"{escape_name(n)} predicts {format_prediction(comparison, j, index)}" for n, j in pairs
            )
            caption = f"{format_annotation(comparison, one, index)}: {predictions}"
            cards.append(f"<figure>{source}<figcaption>{caption}</figcaption></figure>")
    return f'<div class="images">{"".join(cards)}</div>'


def format_prediction(comparison: v.RunComparison, evaluation: v.Evaluation, index: int) -> str:
    row, classes = evaluation.probabilities[index], comparison.runs[0].classes
    if comparison.runs[0].is_multi_label:
        return ", ".join(escape_name(c) for c, p in zip(classes, row, strict=True) if p >= 0.5) or "nothing"
    return f"<b>{escape_name(classes[int(row.argmax())])}</b> {format_percent(float(row.max()))}"


def format_annotation(comparison: v.RunComparison, evaluation: v.Evaluation, index: int) -> str:
    target, classes = evaluation.targets[index], comparison.runs[0].classes
    if comparison.runs[0].is_multi_label:
        return ", ".join(escape_name(c) for c, t in zip(classes, target, strict=True) if t) or "nothing"
    return escape_name(classes[int(target)])
