"""Interpretability of the finished model: attribution maps, mean attention distance, position encoding."""

import base64
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from PIL import Image

from vitrail.analysis import distance, positions, sentences
from vitrail.analysis.attention import attention
from vitrail.analysis.inspection import uniform_distance
from vitrail.analysis.overlay import overlay_map
from vitrail.errors import VitrailError
from vitrail.evaluation import look
from vitrail.inference.predictor import Predictor, load_predictor
from vitrail.report.page.charts import BOTTOM, HIGH, LEFT, RIGHT, TOP, WIDE, Scale, horizontal, label, ticks, wrap_svg
from vitrail.report.page.markup import Section, escape_text
from vitrail.report.run_data import RunData
from vitrail.report.sections.images import SIDE, encode_image, find_mistakes, format_answer, png, spaced_indices

MOST = 12  # images: half of them the most confident errors
PROFILED = 8  # images over which attention distances are averaged
HEAVY = 6e9  # multiply-adds of an image above which the maps take too long for a report
PIXELS = 6  # of a cell in a tile of similarity
METHODS = {
    "rollout": "attention rollout: the share of each patch in the pooled representation",
    "gradient-cam": "gradient CAM: the evidence for the most likely class",
}


class Model(NamedTuple):
    """A finished model, and the images to show: indices in the evaluation, and pixels."""

    predictor: Predictor
    images: list[tuple[int, np.ndarray]]


def section(run: RunData) -> Section | None:
    """For classification only; a sentence with the reason where the model is too large or cannot be read."""
    if not run.is_finished or run.evaluation is None or not len(run.evaluation.probabilities):
        return None
    title = "Attribution and attention"
    if run.cost is None or run.cost.macs > HEAVY:
        return Section(
            "inside",
            title,
            [f"The model is too large for attribution maps in a report; run {escape_text(command(run))} instead."],
            "",
        )
    split = run.dataset.splits.get(run.evaluation.part) if run.dataset else None
    if split is None:
        return Section("inside", title, ["Its images are not there any more, so there are no maps."], "")
    try:
        predictor = load_predictor(run.folder.weights)
    except VitrailError:
        return Section("inside", title, ["Its weights cannot be read, so there are no maps."], "")
    where = {split.names[i]: i for i in range(len(split))}
    split_index = {
        index: where[run.evaluation.names[index]]
        for index in choose_images(run)
        if run.evaluation.names[index] in where
    }
    to_index = {position: index for index, position in split_index.items()}
    try:
        images = [
            (to_index[position], pixels) for position, pixels in look.read_images(split, list(split_index.values()))
        ]
        return render_inside(run, Section("inside", title, [], ""), Model(predictor, images))
    except VitrailError as error:
        return Section("inside", title, [f"There are no maps: {escape_text(error.what)}."], "")


def command(run: RunData) -> str:
    return f"vitrail look {run.folder.path} IMAGE... --distance --positions"


def choose_images(run: RunData) -> list[int]:
    """Some of the most confident errors, then evenly spaced correct ones, as indices in the evaluation."""
    assert run.evaluation is not None
    wrong, size = find_mistakes(run.evaluation, run.is_multi_label)
    worst = np.flatnonzero(wrong)
    worst = worst[np.argsort(-size[worst], kind="stable")][: MOST // 2]
    right = np.flatnonzero(~wrong)
    return [*worst.tolist(), *(spaced_indices(right, MOST - len(worst)).tolist() if len(right) else [])]


def render_inside(run: RunData, section: Section, model: Model) -> Section:
    """The section with the maps and charts that this model family supports."""
    net = model.predictor.model
    maps = look.available_maps(model.predictor)
    kind = "rollout" if maps.rollout else "gradient-cam"
    paragraphs = [
        f"Each image with {METHODS[kind]}. First the most confident errors, then evenly spaced correct predictions. "
        f"More: {escape_text(command(run))}."
    ]
    body = overlays(run, model, kind)
    charts = []
    if maps.attention and model.images:
        batch = look.prepare_images(model.predictor, [pixels for _, pixels in model.images[-PROFILED:]])
        profiles = distance.profile_layers(net, [batch])
        reference = [uniform_distance(one) for one in attention(net, batch[:1])]
        paragraphs += [escape_text(sentence) for sentence in sentences.describe_distances(profiles, reference)]
        charts.append(dots([p.distance.tolist() for p in profiles if bool(p.distance.isfinite().all())]))
    try:
        encodings = positions.find_encodings(net)
        paragraphs += [escape_text(sentence) for one in encodings[:3] for sentence in one.sentences()]
        charts += [tiles(one) for one in encodings[:1] if isinstance(one, positions.Similarity)]
    except VitrailError as error:
        paragraphs.append(f"{escape_text(error.what)}.")
    return section._replace(paragraphs=paragraphs, body=body + f'<div class="charts">{"".join(charts)}</div>')


def overlays(run: RunData, model: Model, kind: str) -> str:
    """Pairs of an image and its overlay."""
    evaluation, cards = run.evaluation, []
    assert evaluation is not None
    wrong, _ = find_mistakes(evaluation, run.is_multi_label)
    for index, pixels in model.images:
        small = shrink(pixels)
        heat = look.heat_map(model.predictor, pixels, kind)
        both = "".join(
            image(*png(each))
            for each in (
                small,
                overlay_map(small, heat.values, look.whole_image(model.predictor.preprocess), heat.covers),
            )
        )
        mark = "✗" if wrong[index] else "✓"
        caption = f'<span class="mark">{mark}</span> {format_answer(evaluation, run, index, bool(wrong[index]))}'
        state = "wrong" if wrong[index] else "right"
        cards.append(f'<figure class="{state}">{both}<figcaption>{caption}</figcaption></figure>')
    return f'<div class="images pairs">{"".join(cards)}</div>'


def shrink(pixels: np.ndarray) -> np.ndarray:
    """At most as large as a thumbnail."""
    scale = SIDE / max(pixels.shape[:2])
    if scale >= 1 or pixels.shape[2] not in (1, 3, 4):
        return pixels
    image = Image.fromarray(pixels.squeeze())
    small = np.asarray(
        image.resize(
            (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS
        )
    )
    return small.reshape(*small.shape[:2], -1)


def image(data: bytes, small: bool) -> str:
    kind = ' class="pixels"' if small else ""
    return f'<img alt=""{kind} src="data:image/png;base64,{base64.b64encode(data).decode()}">'


def dots(layers: Iterable[list[float]]) -> str:
    """A dot for every head over the layers, and a line through the means."""
    rows = [row for row in layers if row]
    if not rows:
        return ""
    marks = ticks(0.0, max(map(max, rows)), 4)
    y = Scale(marks[0], marks[-1], HIGH - BOTTOM, TOP)
    x = Scale(-0.5, len(rows) - 0.5, LEFT, WIDE - RIGHT)
    parts = [horizontal(y(t), f"{t:g}") for t in marks]
    parts += [label(x(i), HIGH - 6, str(i), "middle") for i in sorted({0, len(rows) // 2, len(rows) - 1})]
    parts += [
        f'<circle class="dot s0" cx="{x(i):.1f}" cy="{y(v):.1f}" r="3">'
        f"<title>layer {i}, head {h}: {v:.1f} pixels</title></circle>"
        for i, row in enumerate(rows) for h, v in enumerate(row)
    ]  # fmt: skip
    means = " ".join(f"{x(i):.1f},{y(sum(row) / len(row)):.1f}" for i, row in enumerate(rows))
    parts.append(f'<polyline class="line s1" points="{means}"/>')
    caption = "<figcaption><b>Mean attention distance</b> <span>pixels, by layer; one dot per head</span></figcaption>"
    return f"<figure>{caption}{wrap_svg(HIGH, 'mean attention distance by layer', parts)}</figure>"


def tiles(encoding: positions.Similarity) -> str:
    """Position-embedding similarity: a tile for each patch, at its position."""
    from matplotlib import colormaps

    values = encoding.values.numpy()
    h, w = values.shape[:2]
    canvas = np.full((h * (h + 1), w * (w + 1), 3), 255, np.uint8)
    for row in range(h):
        for column in range(w):
            top, left = row * (h + 1), column * (w + 1)
            canvas[top : top + h, left : left + w] = np.rint(
                255 * colormaps["viridis"](0.5 + values[row, column] / 2)[:, :, :3]
            )
    times = max(1, PIXELS * 60 // max(canvas.shape[:2]))
    data = encode_image(Image.fromarray(canvas.repeat(times, 0).repeat(times, 1)).quantize(64))
    scale = "cosine, one tile per patch; yellow 1, dark -1"
    caption = f"<figcaption><b>Position-embedding similarity</b> <span>{scale}</span></figcaption>"
    return f"<figure>{caption}{image(data, False)}</figure>"
