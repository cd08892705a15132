"""Images that the model made when it was judged."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vitrail.data.subset import evenly_spaced
from vitrail.evaluation.generation import frechet
from vitrail.evaluation.generation.copying import NEIGHBOURS, CopyingResult, describe_copying
from vitrail.evaluation.generation.copying import read_copying as written
from vitrail.inference.sample import ACROSS, GUIDANCE, QUICK, portrait_classes
from vitrail.report.page.charts import Series, draw_chart
from vitrail.report.page.markup import Section, escape_name, escape_text, render_paragraphs, table
from vitrail.report.page.words import format_percent
from vitrail.report.run_data import RunData
from vitrail.report.sections.headline import series
from vitrail.report.sections.images import png
from vitrail.training.samples import MOST, STEPS, WIDE

SPOKEN = {
    "frechet": "Fréchet distance", "precision": "Precision", "recall": "Recall", "density": "Density", "coverage": "Coverage",
}  # fmt: skip
LIGHT, SMALL = 60_000, 4000  # bytes up to which a grid, or one image, is shown as it is
WIDEST = 640  # pixels of a grid


def images(known: RunData) -> Section | None:
    """A row for each class, from a seed that is always the same."""
    title = "What it makes"
    source = embed_file(known.folder.samples)
    if not source:
        return Section("made", title, ["Images are made when the run is finished."], "")
    guided = int(known.recipe.model.keys.get("classes", 1)) > 0
    names = [escape_name(known.classes[i]) for i in portrait_classes(len(known.classes))] if guided else []
    said = [
        f"{ACROSS} images {'of each class ' if guided else ''}as they come: seed 0, {QUICK} steps, "
        f"{f'guidance {GUIDANCE:g}' if guided else 'no guidance'}, averaged weights where there are such. Nothing was picked out.",
    ]
    if names:
        said.append(f"Row by row: {', '.join(names)}. Images in a column begin with the same noise.")
    body = f'<img alt="images that the model made" class="pixels made" src="{source}">'
    return Section("made", title, said, body + quality(known) + distance(known))


def snapshots(known: RunData) -> Section | None:
    """The same few images at moments of the run, one row each."""
    files = sorted(known.folder.snapshots.glob("step-*.png"))
    files = [files[i] for i in evenly_spaced(len(files), MOST)] if files else []
    rows = [
        f'<figure><figcaption>step {int(file.stem.rpartition("-")[2]):,}</figcaption><img alt="" class="pixels" src="{source}"></figure>'
        for file in files if (source := embed_file(file))
    ]  # fmt: skip
    if not rows:
        return None
    said = [
        f"The same {WIDE} images at moments of the run, from the same noise each time, made with the averaged weights of that moment in "
        f"{STEPS} steps: quicker and coarser than those above."
    ]
    return Section("through", "How they came about", said, f'<div class="moments">{"".join(rows)}</div>')


def copies(known: RunData) -> Section | None:
    """A few made images beside the training images nearest to them."""
    if not (found := written(known.folder.evaluation)):
        return None
    said = [
        f"Made images, each with the {NEIGHBOURS} training images nearest to it, and their distances. 1 is the usual distance of a "
        "held-out image to its nearest training image: much less is a copy. By pixels, smooth images are near to many."
    ]
    body = "".join(render_paragraphs([escape_text(describe_copying(one.report))]) + beside(one) for one in found)
    return Section("copies", "Does it copy?", said, body)


def beside(copied: CopyingResult) -> str:
    cards = []
    for images, row in zip(copied.images, copied.report.rows, strict=False):
        words = [
            "made",
            *(
                f'<span title="{escape_text(called)}">{far:.2f}</span>'
                for called, far in zip(*row_of(row), strict=True)
            ),
        ]
        cells = "".join(
            f"<div>{image(pixels)}<span>{word}</span></div>" for pixels, word in zip(images, words, strict=False)
        )
        cards.append(f"<figure>{cells}</figure>")
    return f'<div class="copies">{"".join(cards)}</div>'


def row_of(row: dict[str, Any]) -> tuple[list[str], list[float]]:
    return [str(called) for called in row["names"]], [float(far) for far in row["distances"]]


def image(pixels: np.ndarray) -> str:
    data, small = png(pixels)
    kind = ' class="pixels"' if small else ""
    return f'<img alt=""{kind} src="{address(data, SMALL)}">'


def embed_file(file: Path) -> str:
    """An image as an address that holds it; empty where it cannot be read."""
    try:
        return address(file.read_bytes(), LIGHT)
    except OSError:
        return ""


def address(data: bytes, light: int) -> str:
    """A PNG as it is, or one of more than so many bytes packed with loss, and not wider than `WIDEST`. Errors: `OSError`."""
    if len(data) <= light:
        return f"data:image/png;base64,{base64.b64encode(data).decode()}"
    with Image.open(io.BytesIO(data)) as whole:
        image = whole.convert("RGB")
    image.thumbnail((WIDEST, 2 * WIDEST), Image.Resampling.LANCZOS)
    packed = io.BytesIO()
    image.save(packed, "WEBP", quality=75)
    return f"data:image/webp;base64,{base64.b64encode(packed.getvalue()).decode()}"


def distance(known: RunData) -> str:
    """How the distance to real images went, where a classifier measured it."""
    points = series(known.evals, "frechet")
    if not points:
        return ""
    judge = escape_text(known.recipe.eval.features or "a classifier")
    drawn = draw_chart("Fréchet distance", [Series("", points)], lambda value: f"{value:.4g}", zero=True)
    told = f"At every evaluation, by the features of {judge}, between {frechet.count_images(known.recipe):,} images made in {frechet.STEPS} steps "
    told += "and the held-out ones. Less is better; numbers of another classifier or count are not to be compared with these."
    return render_paragraphs([told]) + f'<div class="charts">{drawn}</div>'


def quality(known: RunData) -> str:
    """What `vitrail eval --features` found last."""
    try:
        found = json.loads(known.folder.quality.read_text(encoding="utf-8"))
        floor = found["metrics_of_real"] or {}
        beside = {key: f" (of real images {value:.4g})" for key, value in floor.items()}
        rows = [
            [escape_text(SPOKEN[key]), f"{value:.4g}{beside.get(key, '')}"] for key, value in found["metrics"].items()
        ]
        if found["asked"] is not None:
            rows.append(
                [
                    "Of the class asked for",
                    f"{format_percent(found['asked'])} (of real images {format_percent(found['asked_of_real'])})",
                ]
            )
        told = f"{found['made']:,} made and {found['real']:,} real images of the {found['part']} part, "
        told += f"by {found['width']} features of {found['by']}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return render_paragraphs([escape_text(told) + "."]) + table(["", ""], rows, "facts")
