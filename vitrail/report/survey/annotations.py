"""The survey of masks and boxes as lines of text, and what to do about what it found."""

from vitrail.data.dataset import Dataset
from vitrail.data.survey.annotations import FAULTS, Truths
from vitrail.data.survey.images import SHOWN
from vitrail.errors import many
from vitrail.report.survey.tables import table

RULING = 0.95  # share of one class in the pixels from which accuracy says little


def advice(dataset: Dataset, truths: Truths) -> list[str]:
    """What to do about what was found, a sentence each, the gravest first; empty where nothing needs doing."""
    said, thing = [], ("mask",) if truths.kind == "masks" else ("box", "boxes")
    if truths.broken:
        said.append(f"not usable: the truths of {many(len(truths.broken), 'picture')}; correct them, or take the pictures out")
    for name, where in truths.faults.items():
        wrong, remedy = FAULTS[name]
        said.append(f"{wrong}: {many(len(where), *thing)}, the first in {where[0].name}; {remedy}")
    train = truths.counts.get("train", ())
    if lacking := [dataset.classes[i] for i, n in enumerate(train) if n == 0]:
        names = ", ".join(lacking[:5]) + (", ..." if lacking[5:] else "")
        said.append(f"never in train: {many(len(lacking), 'class', 'classes')} ({names}); add pictures, or drop the classes")
    if truths.kind == "masks" and any(train) and max(train) > RULING * sum(train):
        ruling, share = dataset.classes[train.index(max(train))], max(train) / sum(train)
        said.append(f"{ruling} takes {share:.1%} of the pixels of train: judge by the mean IoU, not by the share of right pixels")
    pixels = {part: sum(n) + truths.ignored[part] for part, n in truths.counts.items()}
    if truths.kind == "masks" and sum(truths.ignored.values()) > sum(pixels.values()) / 2:
        said.append("more than half of all pixels are ignored (255); is that value meant so?")
    return said


def render(dataset: Dataset, truths: Truths) -> list[str]:
    """What is true of the pictures as lines of plain text, for people: how much there is, what is wrong, what to do."""
    masks = truths.kind == "masks"
    rows = []
    if masks:
        rows.append(("ignored", ", ".join(f"{n:,} pixels of {part}" for part, n in truths.ignored.items())))
    else:
        rows.append(("boxes", ", ".join(f"{sum(n):,} {part}" for part, n in truths.counts.items())))
        if truths.extent:
            low, middle, high = truths.extent
            rows.append(("size of boxes", f"{low:.0f}-{high:.0f}, median {middle:.0f} (root of height x width in pixels)"))
        if any(truths.ignored.values()):
            rows.append(("crowds", ", ".join(f"{n:,} {part}" for part, n in truths.ignored.items())))
    if any(truths.bare.values()):
        rows.append(("without any", ", ".join(f"{many(n, 'picture')} of {part}" for part, n in truths.bare.items() if n)))
    lines = [f"{name:<16}{value}" for name, value in rows]
    for what, counts in (("pixels" if masks else "boxes", truths.counts), ("pictures", truths.pictures)):
        lines += ["", f"{what} by class", *(f"  {line}" for line in table(dataset.classes, counts, what))]
    if truths.broken:
        lines += ["", "truths that cannot be used:", *(f"  {bad.name}: {bad.reason}" for bad in truths.broken[:SHOWN])]
        if len(truths.broken) > SHOWN:
            lines.append(f"  and {len(truths.broken) - SHOWN:,} more")
    said = advice(dataset, truths)
    return lines + (["", f"advice on the {'masks' if masks else 'boxes'}:", *(f"  {x}" for x in said)] if said else [])
