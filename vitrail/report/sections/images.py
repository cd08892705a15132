"""Images with what was said of them: the worst mistakes, and a sample by a fixed rule."""

import base64
import io
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from vitrail.data import subset
from vitrail.data.dataset import Split
from vitrail.errors import BadImage
from vitrail.report.page.markup import Section, escape_name, escape_text
from vitrail.report.page.words import THIN, format_percent, format_plural
from vitrail.report.run_data import Evaluation, RunData

SIDE = 96  # pixels
HEAVY = 16_000  # bytes from which a thumbnail is reduced to a palette
TINY = 48  # pixels up to which the browser shows the pixels as squares
WORST, RIGHT, WRONG = 16, 16, 8
SURE = 0.9


class ShownImage(NamedTuple):
    """An image of the part by its place, the words under it, and whether the model is right about it."""

    place: int
    caption: str
    right: bool


def mistakes(known: RunData) -> Section | None:
    """The wrong ones, the surest first."""
    if known.evaluation is None:
        return None
    title, judged = "The worst mistakes", known.evaluation
    if not len(judged.names):
        return Section("mistakes", title, ["What was said of each image is not kept, so none is shown."], "")
    wrong, size = find_mistakes(judged, known.is_multi_label)
    places = np.flatnonzero(wrong)
    places = places[np.argsort(-size[places], kind="stable")]
    if not len(places):
        return Section("mistakes", title, [f"None: all of {format_plural(len(wrong), 'image')} are right."], "")
    sure = int((size[places] >= SURE).sum())
    said = [
        f"{len(places):,} of {format_plural(len(wrong), 'image')} {'is' if len(places) == 1 else 'are'} wrong, {sure:,} of them with at least "
        f"{format_percent(SURE, 0)} confidence. These are the surest; wrong labels often hide among them."
    ]
    shown = (ShownImage(int(i), format_answer(judged, known, int(i), True), False) for i in places)
    return render_cards(known, Section("mistakes", title, said, ""), shown, WORST)


def samples(known: RunData) -> Section | None:
    """Right ones and wrong ones, evenly spaced through the part: no luck and no choice in it."""
    if known.evaluation is None or not len(known.evaluation.names):
        return None
    judged = known.evaluation
    wrong, _ = find_mistakes(judged, known.is_multi_label)
    good, bad = spaced_places(np.flatnonzero(~wrong), RIGHT), spaced_places(np.flatnonzero(wrong), WRONG)
    words = [
        f"{len(good)} of the {int((~wrong).sum()):,} right and {len(bad)} of the {int(wrong.sum()):,} wrong ones, evenly spaced through "
        f"the {escape_text(judged.part)} part: a rule, not a choice."
    ]
    shown = [ShownImage(int(i), format_answer(judged, known, int(i), False), not wrong[i]) for i in [*good, *bad]]
    return render_cards(known, Section("samples", "A fair sample", words, ""), shown, len(shown))


def find_mistakes(judged: Evaluation, multi: bool) -> tuple[np.ndarray, np.ndarray]:
    """Per image, whether the answer is wrong [N], and how sure it was of what is wrong, or else of its answer [N]."""
    if multi:
        off = np.abs(judged.probabilities - judged.targets)
        return (off > 0.5).any(1), off.max(1)
    return judged.probabilities.argmax(1) != judged.targets, judged.probabilities.max(1)


def spaced_places(places: np.ndarray, count: int) -> np.ndarray:
    """`count` of `places`, evenly spaced, from the first to the last."""
    return places[subset.evenly_spaced(len(places), count)]


def format_answer(judged: Evaluation, known: RunData, place: int, worst: bool) -> str:
    """What is true and what was said, as HTML. Of several labels, for a mistake the one that is most wrong."""
    row, target, classes = judged.probabilities[place], judged.targets[place], known.classes
    if not known.is_multi_label:
        said = int(row.argmax())
        true = "" if said == target else f"{escape_name(classes[int(target)])} → "
        return f"{true}<b>{escape_name(classes[said])}</b> {format_percent(float(row[said]))}"
    if worst:
        label = int(np.abs(row - target).argmax())
        what = "missed" if target[label] else "seen in vain"
        return f"<b>{escape_name(classes[label])}</b> {what}, {format_percent(float(row[label]))}"
    listed = [
        ", ".join(escape_name(classes[i]) for i in np.flatnonzero(values >= 0.5)[:5]) or "nothing"
        for values in (target, row)
    ]
    return f"<b>{listed[1]}</b>" if listed[0] == listed[1] else f"{listed[0]} → <b>{listed[1]}</b>"


def render_cards(known: RunData, section: Section, shown: Iterable[ShownImage], count: int) -> Section:
    """The section with up to `count` of the images that can be read, or with the reason why there are none."""
    judged = known.evaluation
    assert judged is not None
    split = known.dataset.splits.get(judged.part) if known.dataset else None
    if split is None:
        why = known.absent or f"the data has no {judged.part} part any more"
        return section._replace(paragraphs=[*section.paragraphs, f"The images are not shown: {escape_text(why)}."])
    where = {split.names[i]: i for i in range(len(split))}
    cards: list[str] = []
    for item in shown:
        if len(cards) == count:
            break
        source = thumbnail(split, where.get(judged.names[item.place]))
        if source:
            cards.append(card(source, item, judged.names[item.place]))
    if not cards:
        return section._replace(
            paragraphs=[*section.paragraphs, "The images are not shown: none of them can be found or read any more."]
        )
    return section._replace(body=f'<div class="images">{"".join(cards)}</div>')


def card(source: str, item: ShownImage, called: str) -> str:
    kind, mark = ("right", "✓") if item.right else ("wrong", "✗")
    return (
        f'<figure class="{kind}" title="{escape_text(called)}">{source}<figcaption><span class="mark">{mark}{THIN}</span>{item.caption}'
        "</figcaption></figure>"
    )


def thumbnail(split: Split, place: int | None) -> str:
    """An <img> that holds the image itself, or nothing where it cannot be read."""
    if place is None:
        return ""
    try:
        data, small = png(split.read(place))
    except BadImage:
        return ""
    kind = ' class="pixels"' if small else ""
    return f'<img alt=""{kind} src="data:image/png;base64,{base64.b64encode(data).decode()}">'


def png(pixels: np.ndarray) -> tuple[bytes, bool]:
    """uint8 [H W C] -> a small PNG, and whether it was tiny to begin with. Of other numbers of channels, the first or first three."""
    from PIL import Image

    channels = pixels.shape[2]
    image = Image.fromarray(pixels[:, :, 0] if channels < 3 else np.ascontiguousarray(pixels[:, :, :3]))
    small = max(image.size) <= TINY
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    data = encode_image(image)
    return (encode_image(image.quantize(256)) if len(data) > HEAVY and channels >= 3 else data), small


def encode_image(image) -> bytes:
    held = io.BytesIO()
    image.save(held, "PNG", optimize=True)
    return held.getvalue()
