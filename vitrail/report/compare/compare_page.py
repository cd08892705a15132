"""Runs side by side as one offline page, and as lines of text."""

from collections.abc import Iterable, Sequence
from itertools import islice

from vitrail.report.compare import comparison as v
from vitrail.report.page.charts import Series, chart
from vitrail.report.page.markup import Section, name, table, text
from vitrail.report.page.words import percent
from vitrail.report.sections import generated
from vitrail.report.sections.headline import SPOKEN, series, spelt
from vitrail.report.sections.images import thumbnail

SHOWN = 8  # pictures of each kind of disagreement


def interval(found: v.Interval | None) -> str:
    """A number with its interval, as text."""
    if found is None:
        return ""
    return f"{found.value:.4f}" + (f" ({found.low:.4f} to {found.high:.4f})" if found.way else "")


def page(found: v.Versus) -> str:
    """The whole page, top to bottom."""
    from vitrail.report.page.run_page import shown, top
    from vitrail.report.page.style import SCRIPT

    title = " and ".join(found.names) if len(found.names) == 2 else f"{len(found.names)} runs"
    sections = [
        Section("metrics", metric_title(found), [text(s) for s in v.sentences(found)], metrics(found)),
        Section("recipes", "What differs in the recipes", [], table(["Setting", *map(name, found.names)], rows(found.recipes), "facts")),
        Section("curves", "How they went", [], f'<div class="charts">{"".join(curves(found))}</div>'),
        *disagreements(found),
        Section("cost", "What they cost", [], table(["", *map(name, found.names)], rows(v.costs(found.runs)), "facts")),
    ]
    links = " ".join(f'<a href="#{s.key}">{text(s.title)}</a>' for s in sections)
    return (
        f"{top(title)}<body><main><header><h1>{text(title)} <span>side by side</span></h1></header><nav>{links}</nav>"
        f"{''.join(map(shown, sections))}</main><script>{SCRIPT}</script></body></html>\n"
    )


def metric_title(found: v.Versus) -> str:
    return f"How good they are: {found.part} part" if found.part else "How good they are"


def rows(pairs: Sequence[tuple[str, list[str]]]) -> list[list[str]]:
    return [[text(key), *map(text, values)] for key, values in pairs]


def metrics(found: v.Versus) -> str:
    ways = {key: next((i.way for i in row if i and i.way), "") for key, row in found.metrics}
    spoken = {**generated.SPOKEN, **SPOKEN}
    body = [[text(spoken.get(key, key)), *(text(interval(i)) for i in row), text(ways[key])] for key, row in found.metrics]
    return table(["", *map(name, found.names), "95 % interval"], body, "facts")


def curves(found: v.Versus) -> list[str]:
    """Losses and scores of all runs, each in one chart."""
    losses = [Series(n, series(k.training, "loss")) for n, k in zip(found.names, found.runs, strict=True)]
    drawn = [chart("Training loss", losses)]
    metric = found.runs[0].metric
    if all(k.metric == metric for k in found.runs):
        scores = [Series(n, series(k.evals, metric)) for n, k in zip(found.names, found.runs, strict=True)]
        first = found.runs[0]
        title = SPOKEN[metric] if first.lower else f"{SPOKEN[metric]}, held out"
        drawn.append(chart(title, scores, spelt(first)))
    return drawn


def disagreements(found: v.Versus) -> list[Section]:
    """Pictures that the first run and another one tell otherwise."""
    made = []
    for number, other in enumerate(found.disagreements, 1):
        a, b = found.names[0], found.names[number]
        groups = ((f"Only {a} is right", other.first), (f"Only {b} is right", other.second), ("Both are wrong, differently", other.neither))
        body = "".join(f"<h3>{text(title)}: {len(places):,}</h3>{pictured(found, number, places)}" for title, places in groups)
        made.append(Section(f"disagree-{number}", f"Where {a} and {b} disagree", [f"The {SHOWN} that they differ most about, each."], body))
    return made


def pictured(found: v.Versus, number: int, places: Iterable[int]) -> str:
    """Cards of a few pictures: what is true, and what both say."""
    known, one, other = found.runs[0], found.judged[0], found.judged[number]
    split = known.dataset.splits.get(found.part) if known.dataset else None
    if split is None or one is None or other is None:
        return ""
    where = {split.names[i]: i for i in range(len(split))}
    cards = []
    for place in islice(places, SHOWN):
        source = thumbnail(split, where.get(one.names[place]))
        if source:
            said = "; ".join(f"{name(n)} says {answer(found, j, place)}" for n, j in
                             ((found.names[0], one), (found.names[number], other)))  # fmt: skip
            cards.append(f"<figure>{source}<figcaption>{truth(found, one, place)}: {said}</figcaption></figure>")
    return f'<div class="pictures">{"".join(cards)}</div>'


def answer(found: v.Versus, judged: v.Judged, place: int) -> str:
    row, classes = judged.probabilities[place], found.runs[0].classes
    if found.runs[0].multi:
        return ", ".join(name(c) for c, p in zip(classes, row, strict=True) if p >= 0.5) or "nothing"
    return f"<b>{name(classes[int(row.argmax())])}</b> {percent(float(row.max()))}"


def truth(found: v.Versus, judged: v.Judged, place: int) -> str:
    target, classes = judged.targets[place], found.runs[0].classes
    if found.runs[0].multi:
        return ", ".join(name(c) for c, t in zip(classes, target, strict=True) if t) or "nothing"
    return name(classes[int(target)])
