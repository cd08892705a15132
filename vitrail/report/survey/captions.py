"""The survey of captions as lines of text, and advice on its findings."""

from vitrail.data.survey.annotations import FAULTS, AnnotationSurvey
from vitrail.data.survey.captions import CaptionSurvey
from vitrail.errors import many
from vitrail.report.survey.tables import list_broken

SHARE, LEAST = 0.01, 10  # of the images and images of one caption, from which it is on many
LONGEST = 60  # characters of a caption that are printed


def render(annotations: AnnotationSurvey, captions: CaptionSurvey) -> list[str]:
    """The survey of the captions as lines of plain text: counts, findings, advice."""
    low, high = captions.per_image
    short, middle, long = captions.lengths
    total = sum(captions.counts.values())
    rows = [
        ("captions", ", ".join(f"{n:,} {part}" for part, n in captions.counts.items())),
        ("per image", str(low) if low == high else f"{low}-{high}"),
        ("characters", str(short) if short == long else f"{short:,}-{long:,}, median {middle:,}"),
        ("different", f"{captions.distinct:,} of {total:,}"),
    ]
    lines = [f"{name:<16}{value}" for name, value in rows]
    if captions.frequent:
        lines += ["", "on several images:", *(f"  {n:,}  {shorten(text)}" for text, n in captions.frequent)]
    lines += list_broken("captions that cannot be read:", annotations.broken)
    sentences = advice(annotations, captions)
    return lines + (["", "advice on the captions:", *(f"  {x}" for x in sentences)] if sentences else [])


def advice(annotations: AnnotationSurvey, captions: CaptionSurvey) -> list[str]:
    """Advice on the findings, a sentence each, the gravest first; empty where there are none."""
    sentences = []
    if annotations.broken:
        count = many(len(annotations.broken), "image")
        sentences.append(f"not usable: the captions of {count}; correct them, or remove the images")
    if captions.distinct == 1:
        sentences.append("all captions are the same: there is nothing to learn from them")
    elif captions.images and captions.shared == captions.images:
        sentences.append("every caption is on several images: they are told apart no further than by these")
    for text, n in captions.frequent if captions.distinct > 1 else ():
        if n >= max(LEAST, SHARE * captions.images):
            sentences.append(
                f"one caption on many images: {shorten(text)} on {n:,} of {captions.images:,}, which count as each "
                "other's wrong answers; write what tells them apart, or leave them out"
            )
    for name, where in annotations.faults.items():
        wrong, remedy = FAULTS[name]
        sentences.append(f"{wrong}: {many(len(where), 'caption')}, the first of {where[0].name}; {remedy}")
    return sentences


def shorten(text: str) -> str:
    return repr(text if len(text) <= LONGEST else text[:LONGEST] + "...")
