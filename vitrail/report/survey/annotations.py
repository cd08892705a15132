"""The survey of masks, boxes or captions as lines of text, and advice on its findings."""

from vitrail.data.dataset import Dataset
from vitrail.data.survey.annotations import FAULTS, AnnotationSurvey
from vitrail.errors import many
from vitrail.report.survey import captions
from vitrail.report.survey.tables import list_broken, table

DOMINANT = 0.95  # fraction of the pixels of one class above which pixel accuracy is uninformative


def advice(dataset: Dataset, annotations: AnnotationSurvey) -> list[str]:
    """Advice on the findings, a sentence each, the gravest first; empty where there are none."""
    sentences, noun = [], ("mask",) if annotations.of_pixels else ("box", "boxes")
    if annotations.broken:
        sentences.append(
            f"not usable: the annotations of {many(len(annotations.broken), 'image')}; "
            "correct them, or remove the images"
        )
    for name, where in annotations.faults.items():
        wrong, remedy = FAULTS[name]
        sentences.append(f"{wrong}: {many(len(where), *noun)}, the first in {where[0].name}; {remedy}")
    train = annotations.counts.get("train", ())
    if lacking := [dataset.classes[i] for i, n in enumerate(train) if n == 0]:
        names = ", ".join(lacking[:5]) + (", ..." if lacking[5:] else "")
        sentences.append(
            f"never in train: {many(len(lacking), 'class', 'classes')} ({names}); add images, or drop the classes"
        )
    if annotations.of_pixels and any(train) and max(train) > DOMINANT * sum(train):
        dominant, share = dataset.classes[train.index(max(train))], max(train) / sum(train)
        sentences.append(
            f"{dominant} has {share:.1%} of the pixels of train: evaluate by the mean IoU, not by the pixel accuracy"
        )
    pixels = {part: sum(n) + annotations.ignored[part] for part, n in annotations.counts.items()}
    if annotations.of_pixels and sum(annotations.ignored.values()) > sum(pixels.values()) / 2:
        sentences.append("more than half of all pixels are ignored (255); is that intended?")
    return sentences


def render(dataset: Dataset, annotations: AnnotationSurvey) -> list[str]:
    """The survey of the annotations as lines of plain text: counts, findings, advice."""
    if annotations.captions:
        return captions.render(annotations, annotations.captions)
    masks = annotations.of_pixels
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
    lines += list_broken("annotations that cannot be used:", annotations.broken)
    sentences = advice(dataset, annotations)
    return lines + (
        ["", f"advice on the {'masks' if masks else 'boxes'}:", *(f"  {x}" for x in sentences)] if sentences else []
    )
