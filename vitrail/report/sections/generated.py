"""Generated images, their quality metrics, and a memorisation check."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vitrail.data.subset import evenly_spaced
from vitrail.evaluation.generation import frechet
from vitrail.evaluation.generation.copying import NEIGHBOURS, CopyingResult, describe_copying, read_copying
from vitrail.inference.sample import ACROSS, GUIDANCE, QUICK, portrait_classes
from vitrail.report.page.charts import Series, draw_chart
from vitrail.report.page.markup import Section, escape_name, escape_text, render_paragraphs, table
from vitrail.report.page.words import format_percent
from vitrail.report.run_data import RunData
from vitrail.report.sections.headline import series
from vitrail.report.sections.images import png
from vitrail.training.samples import MOST, STEPS, WIDE

METRIC_NAMES = {
    "frechet": "Fréchet distance", "precision": "Precision", "recall": "Recall", "density": "Density",
    "coverage": "Coverage",
}  # fmt: skip
LIGHT, SMALL = 60_000, 4000  # bytes up to which a grid, or one image, stays a PNG
WIDEST = 640  # pixels of a grid


def images(run: RunData) -> Section | None:
    """A row for each class, from a fixed seed."""
    title = "Generated images"
    source = embed_file(run.folder.samples)
    if not source:
        return Section("made", title, ["Images are generated when the run is finished."], "")
    is_conditional = int(run.recipe.model.keys.get("classes", 1)) > 0
    names = [escape_name(run.classes[i]) for i in portrait_classes(len(run.classes))] if is_conditional else []
    sentences = [
        f"{ACROSS} images{' of each class' if is_conditional else ''}, not cherry-picked: seed 0, {QUICK} steps, "
        f"{f'guidance scale {GUIDANCE:g}' if is_conditional else 'no guidance'}, EMA weights where the run has them.",
    ]
    if names:
        sentences.append(f"Row by row: {', '.join(names)}. Images in a column start from the same noise.")
    body = f'<img alt="generated images" class="pixels generated" src="{source}">'
    return Section("made", title, sentences, body + quality(run) + distance(run))


def snapshots(run: RunData) -> Section | None:
    """The same few samples at several steps of the run, one row each."""
    files = sorted(run.folder.snapshots.glob("step-*.png"))
    files = [files[i] for i in evenly_spaced(len(files), MOST)] if files else []
    rows = [
        f'<figure><figcaption>step {int(file.stem.rpartition("-")[2]):,}</figcaption>'
        f'<img alt="" class="pixels" src="{source}"></figure>'
        for file in files if (source := embed_file(file))
    ]  # fmt: skip
    if not rows:
        return None
    sentences = [
        f"{WIDE} samples from the same noise at several training steps, each with the EMA weights of that step and "
        f"{STEPS} sampling steps: fewer than those above."
    ]
    return Section("through", "Samples during training", sentences, f'<div class="snapshots">{"".join(rows)}</div>')


def copies(run: RunData) -> Section | None:
    """A few generated images beside their nearest training images."""
    if not (results := read_copying(run.folder.evaluation)):
        return None
    sentences = [
        f"Generated images, each with its {NEIGHBOURS} nearest training images and their distances. 1 is the typical "
        "distance of a held-out image to its nearest training image; much less means a copy. In pixel space, smooth "
        "images are close to many others."
    ]
    body = "".join(
        render_paragraphs([escape_text(describe_copying(one.report))]) + render_neighbours(one) for one in results
    )
    return Section("copies", "Memorisation: nearest training images", sentences, body)


def render_neighbours(result: CopyingResult) -> str:
    cards = []
    for images, row in zip(result.images, result.report.rows, strict=False):
        captions = [
            "generated",
            *(
                f'<span title="{escape_text(name)}">{distance_to:.2f}</span>'
                for name, distance_to in zip(*row_of(row), strict=True)
            ),
        ]
        cells = "".join(
            f"<div>{image(pixels)}<span>{caption}</span></div>"
            for pixels, caption in zip(images, captions, strict=False)
        )
        cards.append(f"<figure>{cells}</figure>")
    return f'<div class="copies">{"".join(cards)}</div>'


def row_of(row: dict[str, Any]) -> tuple[list[str], list[float]]:
    return [str(name) for name in row["names"]], [float(value) for value in row["distances"]]


def image(pixels: np.ndarray) -> str:
    data, small = png(pixels)
    kind = ' class="pixels"' if small else ""
    return f'<img alt=""{kind} src="{data_url(data, SMALL)}">'


def embed_file(file: Path) -> str:
    """An image as a data URL; "" where it cannot be read."""
    try:
        return data_url(file.read_bytes(), LIGHT)
    except OSError:
        return ""


def data_url(data: bytes, light: int) -> str:
    """A PNG as a data URL; above `light` bytes as a lossy WebP at most `WIDEST` wide. Errors: `OSError`."""
    if len(data) <= light:
        return f"data:image/png;base64,{base64.b64encode(data).decode()}"
    with Image.open(io.BytesIO(data)) as whole:
        image = whole.convert("RGB")
    image.thumbnail((WIDEST, 2 * WIDEST), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=75)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def distance(run: RunData) -> str:
    """The Fréchet distance over steps, where it was measured during training."""
    points = series(run.evals, "frechet")
    if not points:
        return ""
    extractor = escape_text(run.recipe.eval.features or "a classifier")
    chart = draw_chart("Fréchet distance", [Series("", points)], lambda value: f"{value:.4g}", zero=True)
    sentence = (
        f"At every evaluation, in the features of {extractor}, between {frechet.count_images(run.recipe):,} images "
        f"generated in {frechet.STEPS} steps and the held-out images. Lower is better; values of another feature "
        "extractor or image count are not comparable."
    )
    return render_paragraphs([sentence]) + f'<div class="charts">{chart}</div>'


def quality(run: RunData) -> str:
    """The results of the last `vitrail eval --features`."""
    try:
        result = json.loads(run.folder.quality.read_text(encoding="utf-8"))
        floor = result["metrics_of_real"] or {}
        reference = {key: f" (of real images {value:.4g})" for key, value in floor.items()}
        rows = [
            [escape_text(METRIC_NAMES[key]), f"{value:.4g}{reference.get(key, '')}"]
            for key, value in result["metrics"].items()
        ]
        if result["asked"] is not None:
            rows.append(
                [
                    "Conditioning accuracy",
                    f"{format_percent(result['asked'])} (of real images {format_percent(result['asked_of_real'])})",
                ]
            )
        sentence = f"{result['made']:,} generated and {result['real']:,} real images of the {result['part']} part, "
        sentence += f"by {result['width']} features of {result['by']}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return render_paragraphs([escape_text(sentence) + "."]) + table(["", ""], rows, "facts")
