"""The survey of images as lines of text, and advice on its findings."""

from collections.abc import Sequence

from vitrail.data.dataset import Dataset
from vitrail.data.survey.images import SHOWN, Survey
from vitrail.report.survey.tables import table


def render(dataset: Dataset, survey: Survey, advice: Sequence[str] = ()) -> list[str]:
    """The survey as lines of plain text: counts, then findings, then notes and advice."""
    height, width = survey.sizes.height, survey.sizes.width
    rows = [("images", ", ".join(f"{n:,} {part}" for part, n in survey.images.items()))]
    one = f"{height[0]} x {width[0]}"
    spread = f"{height[0]}-{height[2]} x {width[0]}-{width[2]}, median {height[1]} x {width[1]}"
    spread += f", {survey.sizes.distinct:,} different"
    rows.append(("height x width", one if survey.sizes.distinct == 1 else spread))
    rows.append(
        ("channels", ", ".join(f"{c} ({n:,})" for c, n in survey.channels.items()) + f"; read as {dataset.channels}")
    )
    rows.append(("bits", ", ".join(f"{b} ({n:,})" for b, n in survey.bits.items())))
    rows.append(("mean", " ".join(f"{x:.4f}" for x in survey.mean)))
    rows.append(("std", " ".join(f"{x:.4f}" for x in survey.std)))
    rows.append(("content", survey.content[:16]))
    lines = [f"{name:<16}{value}" for name, value in rows]
    if survey.counts:
        lines += ["", *table(dataset.classes, survey.counts, "images")]
    if survey.corrupt:
        lines += ["", "cannot be read:", *(f"  {bad.name}: {bad.reason}" for bad in survey.corrupt[:SHOWN])]
        if len(survey.corrupt) > SHOWN:
            lines.append(f"  and {len(survey.corrupt) - SHOWN:,} more")
    for title, groups in (("equal, but labelled differently:", survey.conflicts), ("equal:", survey.copies)):
        if groups:
            lines += ["", title, *("  " + ", ".join(w.name for w in g[:4]) for g in groups[:5])]
            if len(groups) > 5:
                lines.append(f"  and {len(groups) - 5:,} more groups")
    for title, sentences in (("notes:", list(dataset.notes)), ("advice:", advice)):
        lines += ["", title, *(f"  {x}" for x in sentences)] if sentences else []
    return lines
