"""Looking inside the finished model: where on its images the answers come from, how far its heads look, how it tells places."""

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
from vitrail.report.sections.images import SIDE, encode_image, find_mistakes, format_answer, png, spaced_places

MOST = 12  # images: half of them the surest mistakes
PROFILED = 8  # images that distances are the mean over
HEAVY = 6e9  # multiply-adds of an image from which on looking takes too long for a page
PIXELS = 6  # of a cell in a tile of likeness


class Model(NamedTuple):
    """A finished model, and the images that it is shown with: places in the judgement and in the part."""

    predictor: Predictor
    shown: list[tuple[int, np.ndarray]]


def section(known: RunData) -> Section | None:
    """Of classification alone; a sentence stands in its place where the model cannot be looked into, or is large."""
    if not known.is_finished or known.evaluation is None or not len(known.evaluation.names):
        return None
    title = "What it looks at"
    if known.cost is None or known.cost.macs > HEAVY:
        return Section(
            "inside",
            title,
            [f"The model is too large to be looked into for this page; {escape_text(command(known))} does it."],
            "",
        )
    split = known.dataset.splits.get(known.evaluation.part) if known.dataset else None
    if split is None:
        return Section("inside", title, ["Its images are not there any more, so nothing is drawn."], "")
    try:
        predictor = load_predictor(known.folder.weights)
    except VitrailError:
        return Section("inside", title, ["Its weights cannot be read, so nothing is drawn."], "")
    where = {split.names[i]: i for i in range(len(split))}
    places = {
        place: where[known.evaluation.names[place]] for place in chosen(known) if known.evaluation.names[place] in where
    }
    back = {there: place for place, there in places.items()}
    try:
        shown = [(back[there], pixels) for there, pixels in look.read_images(split, list(places.values()))]
        return drawn(known, Section("inside", title, [], ""), Model(predictor, shown))
    except VitrailError as error:
        return Section("inside", title, [f"Nothing is drawn: {escape_text(error.what)}."], "")


def command(known: RunData) -> str:
    return f"vitrail look {known.folder.path} IMAGE... --distance --positions"


def chosen(known: RunData) -> list[int]:
    """Some of the surest mistakes, then some evenly spaced right ones, by their places in the judgement."""
    assert known.evaluation is not None
    wrong, size = find_mistakes(known.evaluation, known.is_multi_label)
    worst = np.flatnonzero(wrong)
    worst = worst[np.argsort(-size[worst], kind="stable")][: MOST // 2]
    right = np.flatnonzero(~wrong)
    return [*worst.tolist(), *(spaced_places(right, MOST - len(worst)).tolist() if len(right) else [])]


def drawn(known: RunData, section: Section, model: Model) -> Section:
    """The section with whatever this family has."""
    net = model.predictor.model
    ways = look.available_maps(model.predictor)
    kind = "rollout" if ways.rollout else "gradient-cam"
    words = [
        f"Each image, and over it {'attention rollout: how much of the summary comes from where' if ways.rollout else 'gradient CAM'}"
        f"{'' if ways.rollout else ': which cells speak for the likeliest class'}. First the surest mistakes, then right answers, "
        f"evenly spaced. More: {escape_text(command(known))}."
    ]
    body = overlays(known, model, kind)
    charts = []
    if ways.attention and model.shown:
        batch = look.prepare_images(model.predictor, [pixels for _, pixels in model.shown[-PROFILED:]])
        profiles = distance.profile_layers(net, [batch])
        reference = [uniform_distance(one) for one in attention(net, batch[:1])]
        words += [escape_text(sentence) for sentence in sentences.describe_distances(profiles, reference)]
        charts.append(dots([p.distance.tolist() for p in profiles if bool(p.distance.isfinite().all())]))
    try:
        found = positions.find_encodings(net)
        words += [escape_text(sentence) for one in found[:3] for sentence in one.sentences()]
        charts += [tiles(one) for one in found[:1] if isinstance(one, positions.Similarity)]
    except VitrailError as error:
        words.append(f"{escape_text(error.what)}.")
    return section._replace(paragraphs=words, body=body + f'<div class="charts">{"".join(charts)}</div>')


def overlays(known: RunData, model: Model, kind: str) -> str:
    """Pairs of an image and what is seen over it."""
    judged, cards = known.evaluation, []
    assert judged is not None
    wrong, _ = find_mistakes(judged, known.is_multi_label)
    for place, pixels in model.shown:
        small = reduced(pixels)
        heat = look.heat_map(model.predictor, pixels, kind)
        both = "".join(
            image(*png(each))
            for each in (
                small,
                overlay_map(small, heat.values, look.whole_image(model.predictor.preprocess), heat.covers),
            )
        )
        mark = "✗" if wrong[place] else "✓"
        told_ = format_answer(judged, known, place, bool(wrong[place]))
        cards.append(f'<figure class="{"wrong" if wrong[place] else "right"}">{both}<figcaption><span class="mark">{mark}</span> {told_}'
                     "</figcaption></figure>")  # fmt: skip
    return f'<div class="images pairs">{"".join(cards)}</div>'


def reduced(pixels: np.ndarray) -> np.ndarray:
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
    """A dot for every head over the layers, and a line through their means."""
    rows = [row for row in layers if row]
    if not rows:
        return ""
    marks = ticks(0.0, max(map(max, rows)), 4)
    y = Scale(marks[0], marks[-1], HIGH - BOTTOM, TOP)
    x = Scale(-0.5, len(rows) - 0.5, LEFT, WIDE - RIGHT)
    parts = [horizontal(y(t), f"{t:g}") for t in marks]
    parts += [label(x(i), HIGH - 6, str(i), "middle") for i in sorted({0, len(rows) // 2, len(rows) - 1})]
    parts += [
        f'<circle class="dot s0" cx="{x(i):.1f}" cy="{y(v):.1f}" r="3"><title>layer {i}, head {h}: {v:.1f} pixels</title></circle>'
        for i, row in enumerate(rows) for h, v in enumerate(row)
    ]  # fmt: skip
    means = " ".join(f"{x(i):.1f},{y(sum(row) / len(row)):.1f}" for i, row in enumerate(rows))
    parts.append(f'<polyline class="line s1" points="{means}"/>')
    caption = "<figcaption><b>Mean attention distance</b> <span>pixels, by layer; a dot a head</span></figcaption>"
    return f"<figure>{caption}{wrap_svg(HIGH, 'mean attention distance by layer', parts)}</figure>"


def tiles(encoding: positions.Similarity) -> str:
    """Likeness of all places, a tile for each place where it is."""
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
    caption = "<figcaption><b>Likeness of places</b> <span>a tile a place; yellow 1, dark -1</span></figcaption>"
    return f"<figure>{caption}{image(data, False)}</figure>"
