"""The survey of images as lines of text, and advice on its findings."""

from vitrail.data.dataset import Dataset
from vitrail.data.survey.images import SHOWN, SLENDER, TINY, Survey
from vitrail.errors import many
from vitrail.report.survey.tables import table

FEW = 20  # training images of a class
UNEVEN = 10.0  # images of the largest class over those of the smallest


def advice(survey: Survey) -> list[str]:
    """Advice on the findings, a sentence each, the gravest first; empty where there are none."""
    sentences = []
    train = survey.counts.get("train", ())
    if survey.corrupt:
        sentences.append(
            f"not readable: {many(len(survey.corrupt), 'image')}; remove or replace, or train with --data.on-error skip"
        )
    if survey.conflicts:
        sentences.append(
            f"equal but labelled differently: {many(len(survey.conflicts), 'group')} of images; keep one label of each"
        )
    for (a, b), n in survey.shared.items():
        sentences.append(
            f"both in {a} and in {b}: {many(n, 'image')} of {b}, which inflates the metrics of {b}; "
            "remove them from one of the two"
        )
    for split, n in survey.repeated.items():
        sentences.append(f"twice in {split}: {many(n, 'image')}; remove the copies, they count double")
    if sum(n > 0 for n in train) == 1:
        sentences.append("all training images are of one class: there is nothing to learn from them")
    elif 0 in train:
        sentences.append(
            f"without training images: {many(train.count(0), 'class', 'classes')}; add images, or drop the classes"
        )
    elif survey.imbalance > UNEVEN:
        sentences.append(
            f"the largest class has {survey.imbalance:.0f} times the images of the smallest: "
            "evaluate by the mean accuracy of the classes"
        )
    if few := sum(0 < n < FEW for n in train):
        sentences.append(
            f"fewer than {FEW} training images: {many(few, 'class', 'classes')}; "
            "start from pre-trained weights, or add images"
        )
    if survey.slender:
        sentences.append(
            f"one side more than {SLENDER:.0f} times the other: {many(len(survey.slender), 'image')}; check or crop"
        )
    if survey.tiny:
        sentences.append(f"a side under {TINY} pixels: {many(len(survey.tiny), 'image')}; check them")
    if survey.animated:
        sentences.append(f"several frames: {many(survey.animated, 'file')}; only the first frame is used")
    return sentences


def render(dataset: Dataset, survey: Survey) -> list[str]:
    """The survey as lines of plain text: counts, then findings, then advice."""
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
    for title, sentences in (("notes:", list(dataset.notes)), ("advice:", advice(survey))):
        lines += ["", title, *(f"  {x}" for x in sentences)] if sentences else []
    return lines
