"""Runs side by side as one offline page, and as lines of text."""

from collections.abc import Iterable, Sequence
from itertools import islice

from vitrail.report.compare import comparison as v
from vitrail.report.page.charts import Series, draw_chart
from vitrail.report.page.markup import Section, escape_name, escape_text, table
from vitrail.report.page.words import format_percent
from vitrail.report.sections import generated
from vitrail.report.sections.headline import SPOKEN, format_metric, series
from vitrail.report.sections.images import thumbnail

SHOWN = 8  # images of each kind of disagreement


def format_interval(found: v.Interval | None) -> str:
    """A number with its interval, as text."""
    if found is None:
        return ""
    return f"{found.value:.4f}" + (f" ({found.low:.4f} to {found.high:.4f})" if found.method else "")


def render_page(found: v.RunComparison) -> str:
    """The whole page, top to bottom."""
    from vitrail.report.page.run_page import render_head, shown
    from vitrail.report.page.style import SCRIPT

    title = " and ".join(found.names) if len(found.names) == 2 else f"{len(found.names)} runs"
    sections = [
        Section("metrics", metric_title(found), [escape_text(s) for s in v.describe_comparison(found)], metrics(found)),
        Section(
            "recipes",
            "What differs in the recipes",
            [],
            table(["Setting", *map(escape_name, found.names)], rows(found.recipes), "facts"),
        ),
        Section("curves", "How they went", [], f'<div class="charts">{"".join(curves(found))}</div>'),
        *disagreements(found),
        Section(
            "cost",
            "What they cost",
            [],
            table(["", *map(escape_name, found.names)], rows(v.list_costs(found.runs)), "facts"),
        ),
    ]
    links = " ".join(f'<a href="#{s.key}">{escape_text(s.title)}</a>' for s in sections)
    return (
        f"{render_head(title)}<body><main><header><h1>{escape_text(title)} <span>side by side</span></h1></header><nav>{links}</nav>"
        f"{''.join(map(shown, sections))}</main><script>{SCRIPT}</script></body></html>\n"
    )


def metric_title(found: v.RunComparison) -> str:
    return f"How good they are: {found.part} part" if found.part else "How good they are"


def rows(pairs: Sequence[tuple[str, list[str]]]) -> list[list[str]]:
    return [[escape_text(key), *map(escape_text, values)] for key, values in pairs]


def metrics(found: v.RunComparison) -> str:
    ways = {key: next((i.method for i in row if i and i.method), "") for key, row in found.metrics}
    spoken = {**generated.SPOKEN, **SPOKEN}
    body = [
        [escape_text(spoken.get(key, key)), *(escape_text(format_interval(i)) for i in row), escape_text(ways[key])]
        for key, row in found.metrics
    ]
    return table(["", *map(escape_name, found.names), "95 % interval"], body, "facts")


def curves(found: v.RunComparison) -> list[str]:
    """Losses and scores of all runs, each in one chart."""
    losses = [Series(n, series(k.training, "loss")) for n, k in zip(found.names, found.runs, strict=True)]
    drawn = [draw_chart("Training loss", losses)]
    metric = found.runs[0].metric
    if all(k.metric == metric for k in found.runs):
        scores = [Series(n, series(k.evals, metric)) for n, k in zip(found.names, found.runs, strict=True)]
        first = found.runs[0]
        title = SPOKEN[metric] if first.is_lower_better else f"{SPOKEN[metric]}, held out"
        drawn.append(draw_chart(title, scores, format_metric(first)))
    return drawn


def disagreements(found: v.RunComparison) -> list[Section]:
    """Images that the first run and another one tell otherwise."""
    made = []
    for number, other in enumerate(found.disagreements, 1):
        a, b = found.names[0], found.names[number]
        groups = (
            (f"Only {a} is right", other.first),
            (f"Only {b} is right", other.second),
            ("Both are wrong, differently", other.neither),
        )
        body = "".join(
            f"<h3>{escape_text(title)}: {len(places):,}</h3>{pictured(found, number, places)}"
            for title, places in groups
        )
        made.append(
            Section(
                f"disagree-{number}",
                f"Where {a} and {b} disagree",
                [f"The {SHOWN} that they differ most about, each."],
                body,
            )
        )
    return made


def pictured(found: v.RunComparison, number: int, places: Iterable[int]) -> str:
    """Cards of a few images: what is true, and what both say."""
    known, one, other = found.runs[0], found.judged[0], found.judged[number]
    split = known.dataset.splits.get(found.part) if known.dataset else None
    if split is None or one is None or other is None:
        return ""
    where = {split.names[i]: i for i in range(len(split))}
    cards = []
    for place in islice(places, SHOWN):
        source = thumbnail(split, where.get(one.names[place]))
        if source:
            said = "; ".join(f"{escape_name(n)} says {answer(found, j, place)}" for n, j in
                             ((found.names[0], one), (found.names[number], other)))  # fmt: skip
            cards.append(
                f"<figure>{source}<figcaption>{format_annotation(found, one, place)}: {said}</figcaption></figure>"
            )
    return f'<div class="images">{"".join(cards)}</div>'


def answer(found: v.RunComparison, evaluation: v.Evaluation, place: int) -> str:
    row, classes = evaluation.probabilities[place], found.runs[0].classes
    if found.runs[0].is_multi_label:
        return ", ".join(escape_name(c) for c, p in zip(classes, row, strict=True) if p >= 0.5) or "nothing"
    return f"<b>{escape_name(classes[int(row.argmax())])}</b> {format_percent(float(row.max()))}"


def format_annotation(found: v.RunComparison, evaluation: v.Evaluation, place: int) -> str:
    target, classes = evaluation.targets[place], found.runs[0].classes
    if found.runs[0].is_multi_label:
        return ", ".join(escape_name(c) for c, t in zip(classes, target, strict=True) if t) or "nothing"
    return escape_name(classes[int(target)])
