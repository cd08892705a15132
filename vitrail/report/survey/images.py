"""The survey of images as lines of text, and what to do about what it found."""

from vitrail.data.dataset import Dataset
from vitrail.data.survey.images import SHOWN, SLENDER, TINY, Survey
from vitrail.errors import many
from vitrail.report.survey.tables import table

FEW = 20  # training images of a class
UNEVEN = 10.0  # images of the largest class over those of the smallest


def advice(survey: Survey) -> list[str]:
    """What to do about what was found, a sentence each, the gravest first; empty where nothing needs doing."""
    said = []
    train = survey.counts.get("train", ())
    if survey.corrupt:
        said.append(
            f"not readable: {many(len(survey.corrupt), 'image')}; remove or replace, or train with --data.bad skip"
        )
    if survey.conflicts:
        said.append(
            f"equal but labelled differently: {many(len(survey.conflicts), 'group')} of images; keep one label of each"
        )
    for (a, b), n in survey.shared.items():
        said.append(
            f"both in {a} and in {b}: {many(n, 'image')} of {b}, which makes {b} look better than it is; remove from one of the two"
        )
    for split, n in survey.repeated.items():
        said.append(f"twice in {split}: {many(n, 'image')}; remove the copies, they count double")
    if sum(n > 0 for n in train) == 1:
        said.append("all training images are of one class: there is nothing to learn from them")
    elif 0 in train:
        said.append(
            f"without training images: {many(train.count(0), 'class', 'classes')}; add images, or drop the classes"
        )
    elif survey.imbalance > UNEVEN:
        said.append(
            f"the largest class has {survey.imbalance:.0f} times the images of the smallest: judge by the mean accuracy of the classes"
        )
    if few := sum(0 < n < FEW for n in train):
        said.append(
            f"fewer than {FEW} training images: {many(few, 'class', 'classes')}; start from pre-trained weights, or add images"
        )
    if survey.slender:
        said.append(
            f"one side more than {SLENDER:.0f} times the other: {many(len(survey.slender), 'image')}; check or crop"
        )
    if survey.tiny:
        said.append(f"a side under {TINY} pixels: {many(len(survey.tiny), 'image')}; little is left to see, check them")
    if survey.animated:
        said.append(f"several frames: {many(survey.animated, 'file')}; only the first frame is used")
    return said


def render(dataset: Dataset, survey: Survey) -> list[str]:
    """The survey as lines of plain text, for people: what is there, then what is wrong, then what to do."""
    height, width = survey.sizes.height, survey.sizes.width
    rows = [("images", ", ".join(f"{n:,} {part}" for part, n in survey.images.items()))]
    one = f"{height[0]} x {width[0]}"
    spread = f"{height[0]}-{height[2]} x {width[0]}-{width[2]}, median {height[1]} x {width[1]}, {survey.sizes.distinct:,} different"
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
    for title, said in (("notes:", list(dataset.notes)), ("advice:", advice(survey))):
        lines += ["", title, *(f"  {x}" for x in said)] if said else []
    return lines
