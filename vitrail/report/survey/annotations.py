"""The survey of masks and boxes as lines of text, and what to do about what it found."""

from vitrail.data.dataset import Dataset
from vitrail.data.survey.annotations import FAULTS, AnnotationSurvey
from vitrail.data.survey.images import SHOWN
from vitrail.errors import many
from vitrail.report.survey.tables import table

RULING = 0.95  # share of one class in the pixels from which accuracy says little


def advice(dataset: Dataset, annotations: AnnotationSurvey) -> list[str]:
    """What to do about what was found, a sentence each, the gravest first; empty where nothing needs doing."""
    said, thing = [], ("mask",) if annotations.kind == "masks" else ("box", "boxes")
    if annotations.broken:
        said.append(
            f"not usable: the truths of {many(len(annotations.broken), 'image')}; correct them, or take the images out"
        )
    for name, where in annotations.faults.items():
        wrong, remedy = FAULTS[name]
        said.append(f"{wrong}: {many(len(where), *thing)}, the first in {where[0].name}; {remedy}")
    train = annotations.counts.get("train", ())
    if lacking := [dataset.classes[i] for i, n in enumerate(train) if n == 0]:
        names = ", ".join(lacking[:5]) + (", ..." if lacking[5:] else "")
        said.append(
            f"never in train: {many(len(lacking), 'class', 'classes')} ({names}); add images, or drop the classes"
        )
    if annotations.kind == "masks" and any(train) and max(train) > RULING * sum(train):
        ruling, share = dataset.classes[train.index(max(train))], max(train) / sum(train)
        said.append(
            f"{ruling} takes {share:.1%} of the pixels of train: judge by the mean IoU, not by the share of right pixels"
        )
    pixels = {part: sum(n) + annotations.ignored[part] for part, n in annotations.counts.items()}
    if annotations.kind == "masks" and sum(annotations.ignored.values()) > sum(pixels.values()) / 2:
        said.append("more than half of all pixels are ignored (255); is that value meant so?")
    return said


def render(dataset: Dataset, annotations: AnnotationSurvey) -> list[str]:
    """What is true of the images as lines of plain text, for people: how much there is, what is wrong, what to do."""
    masks = annotations.kind == "masks"
    rows = []
    if masks:
        rows.append(("ignored", ", ".join(f"{n:,} pixels of {part}" for part, n in annotations.ignored.items())))
    else:
        rows.append(("boxes", ", ".join(f"{sum(n):,} {part}" for part, n in annotations.counts.items())))
        if annotations.extent:
            low, middle, high = annotations.extent
            rows.append(
                ("size of boxes", f"{low:.0f}-{high:.0f}, median {middle:.0f} (root of height x width in pixels)")
            )
        if any(annotations.ignored.values()):
            rows.append(("crowds", ", ".join(f"{n:,} {part}" for part, n in annotations.ignored.items())))
    if any(annotations.bare.values()):
        rows.append(
            ("without any", ", ".join(f"{many(n, 'image')} of {part}" for part, n in annotations.bare.items() if n))
        )
    lines = [f"{name:<16}{value}" for name, value in rows]
    for what, counts in (("pixels" if masks else "boxes", annotations.counts), ("images", annotations.images)):
        lines += ["", f"{what} by class", *(f"  {line}" for line in table(dataset.classes, counts, what))]
    if annotations.broken:
        lines += [
            "",
            "truths that cannot be used:",
            *(f"  {bad.name}: {bad.reason}" for bad in annotations.broken[:SHOWN]),
        ]
        if len(annotations.broken) > SHOWN:
            lines.append(f"  and {len(annotations.broken) - SHOWN:,} more")
    said = advice(dataset, annotations)
    return lines + (["", f"advice on the {'masks' if masks else 'boxes'}:", *(f"  {x}" for x in said)] if said else [])
