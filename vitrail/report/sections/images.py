"""Images with their predictions: the most confident errors, and a systematic sample."""

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
HEAVY = 16_000  # bytes above which a thumbnail is reduced to a palette
TINY = 48  # pixels up to which the browser scales without smoothing
WORST, RIGHT, WRONG = 16, 16, 8
SURE = 0.9


class ShownImage(NamedTuple):
    """An image by its position in the evaluation, its caption, and whether the prediction is correct."""

    position: int
    caption: str
    is_correct: bool


def mistakes(run: RunData) -> Section | None:
    """Misclassified images, the most confident first."""
    if run.evaluation is None:
        return None
    title, evaluation = "Most confident errors", run.evaluation
    if not len(evaluation.names):
        return Section("mistakes", title, ["Predictions per image were not saved, so none is shown."], "")
    if not len(evaluation.probabilities):
        return None
    wrong, size = find_mistakes(evaluation, run.is_multi_label)
    indices = np.flatnonzero(wrong)
    indices = indices[np.argsort(-size[indices], kind="stable")]
    if not len(indices):
        return Section("mistakes", title, [f"None: all of {format_plural(len(wrong), 'image')} are correct."], "")
    sure = int((size[indices] >= SURE).sum())
    sentences = [
        f"{len(indices):,} of {format_plural(len(wrong), 'image')} {'is' if len(indices) == 1 else 'are'} wrong, "
        f"{sure:,} of them with a confidence of at least {format_percent(SURE, 0)}. These are the most confident ones; "
        "annotation errors are often among them."
    ]
    items = (ShownImage(int(i), format_answer(evaluation, run, int(i), True), False) for i in indices)
    return render_cards(run, Section("mistakes", title, sentences, ""), items, WORST)


def samples(run: RunData) -> Section | None:
    """Correct and wrong predictions, evenly spaced through the part."""
    if run.evaluation is None or not len(run.evaluation.probabilities):
        return None
    evaluation = run.evaluation
    wrong, _ = find_mistakes(evaluation, run.is_multi_label)
    good, bad = spaced_indices(np.flatnonzero(~wrong), RIGHT), spaced_indices(np.flatnonzero(wrong), WRONG)
    sentences = [
        f"{len(good)} of the {int((~wrong).sum()):,} correct and {len(bad)} of the {int(wrong.sum()):,} wrong "
        f"predictions, sampled evenly through the {escape_text(evaluation.part)} part, none selected by hand."
    ]
    items = [ShownImage(int(i), format_answer(evaluation, run, int(i), False), not wrong[i]) for i in [*good, *bad]]
    return render_cards(run, Section("samples", "Random sample", sentences, ""), items, len(items))


def find_mistakes(evaluation: Evaluation, multi: bool) -> tuple[np.ndarray, np.ndarray]:
    """Per image, whether the prediction is wrong [N], and the confidence of the error or of the prediction [N]."""
    if multi:
        off = np.abs(evaluation.probabilities - evaluation.targets)
        return (off > 0.5).any(1), off.max(1)
    return evaluation.probabilities.argmax(1) != evaluation.targets, evaluation.probabilities.max(1)


def spaced_indices(indices: np.ndarray, count: int) -> np.ndarray:
    """`count` of `indices`, evenly spaced, from the first to the last."""
    return indices[subset.evenly_spaced(len(indices), count)]


def format_answer(evaluation: Evaluation, run: RunData, index: int, worst: bool) -> str:
    """Annotation and prediction as HTML. For an error with several labels, the label with the largest error."""
    row, target, classes = evaluation.probabilities[index], evaluation.targets[index], run.classes
    if not run.is_multi_label:
        predicted = int(row.argmax())
        true = "" if predicted == target else f"{escape_name(classes[int(target)])} → "
        return f"{true}<b>{escape_name(classes[predicted])}</b> {format_percent(float(row[predicted]))}"
    if worst:
        label = int(np.abs(row - target).argmax())
        what = "missed" if target[label] else "false positive"
        return f"<b>{escape_name(classes[label])}</b> {what}, {format_percent(float(row[label]))}"
    label_lists = [
        ", ".join(escape_name(classes[i]) for i in np.flatnonzero(values >= 0.5)[:5]) or "nothing"
        for values in (target, row)
    ]
    return (
        f"<b>{label_lists[1]}</b>"
        if label_lists[0] == label_lists[1]
        else f"{label_lists[0]} → <b>{label_lists[1]}</b>"
    )


def render_cards(run: RunData, section: Section, items: Iterable[ShownImage], count: int) -> Section:
    """The section with up to `count` of the readable images, or with the reason why there are none."""
    evaluation = run.evaluation
    assert evaluation is not None
    split = run.dataset.splits.get(evaluation.part) if run.dataset else None
    if split is None:
        why = run.absent or f"the data has no {evaluation.part} part any more"
        return section._replace(paragraphs=[*section.paragraphs, f"The images are not shown: {escape_text(why)}."])
    where = {split.names[i]: i for i in range(len(split))}
    cards: list[str] = []
    for item in items:
        if len(cards) == count:
            break
        source = thumbnail(split, where.get(evaluation.names[item.position]))
        if source:
            cards.append(card(source, item, evaluation.names[item.position]))
    if not cards:
        return section._replace(
            paragraphs=[*section.paragraphs, "The images are not shown: none of them can be found or read any more."]
        )
    return section._replace(body=f'<div class="images">{"".join(cards)}</div>')


def card(source: str, item: ShownImage, name: str) -> str:
    kind, mark = ("right", "✓") if item.is_correct else ("wrong", "✗")
    caption = f'<figcaption><span class="mark">{mark}{THIN}</span>{item.caption}</figcaption>'
    return f'<figure class="{kind}" title="{escape_text(name)}">{source}{caption}</figure>'


def thumbnail(split: Split, index: int | None) -> str:
    """An <img> with the image embedded, or "" where it cannot be read."""
    if index is None:
        return ""
    try:
        data, small = png(split.read(index))
    except BadImage:
        return ""
    kind = ' class="pixels"' if small else ""
    return f'<img alt=""{kind} src="data:image/png;base64,{base64.b64encode(data).decode()}">'


def png(pixels: np.ndarray) -> tuple[bytes, bool]:
    """uint8 [H W C] -> a small PNG, and whether the image was tiny.

    Of other numbers of channels than 1 or 3, the first or the first three are shown.
    """
    from PIL import Image

    channels = pixels.shape[2]
    image = Image.fromarray(pixels[:, :, 0] if channels < 3 else np.ascontiguousarray(pixels[:, :, :3]))
    small = max(image.size) <= TINY
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    data = encode_image(image)
    return (encode_image(image.quantize(256)) if len(data) > HEAVY and channels >= 3 else data), small


def encode_image(image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
