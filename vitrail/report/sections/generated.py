"""Pictures that the model made when it was judged."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vitrail.data.subset import spaced
from vitrail.evaluation.generation import frechet
from vitrail.evaluation.generation.copying import NEIGHBOURS, Copied, sentence
from vitrail.evaluation.generation.copying import known as written
from vitrail.inference.sample import ACROSS, GUIDANCE, QUICK, shown
from vitrail.report.page.charts import Series, chart
from vitrail.report.page.markup import Section, name, paragraphs, table, text
from vitrail.report.page.words import percent
from vitrail.report.run_data import Known
from vitrail.report.sections.headline import series
from vitrail.report.sections.images import png
from vitrail.training.samples import MOST, STEPS, WIDE

SPOKEN = {
    "frechet": "Fréchet distance", "precision": "Precision", "recall": "Recall", "density": "Density", "coverage": "Coverage",
}  # fmt: skip
LIGHT, SMALL = 60_000, 4000  # bytes up to which a grid, or one picture, is shown as it is
WIDEST = 640  # pixels of a grid


def pictures(known: Known) -> Section | None:
    """A row for each class, from a seed that is always the same."""
    title = "What it makes"
    source = embedded(known.folder.samples)
    if not source:
        return Section("made", title, ["Pictures are made when the run is finished."], "")
    guided = int(known.recipe.model.keys.get("classes", 1)) > 0
    names = [name(known.classes[i]) for i in shown(len(known.classes))] if guided else []
    said = [
        f"{ACROSS} pictures {'of each class ' if guided else ''}as they come: seed 0, {QUICK} steps, "
        f"{f'guidance {GUIDANCE:g}' if guided else 'no guidance'}, averaged weights where there are such. Nothing was picked out.",
    ]
    if names:
        said.append(f"Row by row: {', '.join(names)}. Pictures in a column begin with the same noise.")
    body = f'<img alt="pictures that the model made" class="pixels made" src="{source}">'
    return Section("made", title, said, body + quality(known) + distance(known))


def through(known: Known) -> Section | None:
    """The same few pictures at moments of the run, one row each."""
    files = sorted(known.folder.moments.glob("step-*.png"))
    files = [files[i] for i in spaced(len(files), MOST)] if files else []
    rows = [
        f'<figure><figcaption>step {int(file.stem.rpartition("-")[2]):,}</figcaption><img alt="" class="pixels" src="{source}"></figure>'
        for file in files if (source := embedded(file))
    ]  # fmt: skip
    if not rows:
        return None
    said = [
        f"The same {WIDE} pictures at moments of the run, from the same noise each time, made with the averaged weights of that moment in "
        f"{STEPS} steps: quicker and coarser than those above."
    ]
    return Section("through", "How they came about", said, f'<div class="moments">{"".join(rows)}</div>')


def copies(known: Known) -> Section | None:
    """A few made pictures beside the training pictures nearest to them."""
    if not (found := written(known.folder.evaluation)):
        return None
    said = [
        f"Made pictures, each with the {NEIGHBOURS} training pictures nearest to it, and their distances. 1 is the usual distance of a "
        "held-out picture to its nearest training picture: much less is a copy. By pixels, smooth pictures are near to many."
    ]
    body = "".join(paragraphs([text(sentence(one.found))]) + beside(one) for one in found)
    return Section("copies", "Does it copy?", said, body)


def beside(copied: Copied) -> str:
    cards = []
    for pictures, row in zip(copied.pictures, copied.found.rows, strict=False):
        words = ["made", *(f'<span title="{text(called)}">{far:.2f}</span>' for called, far in zip(*row_of(row), strict=True))]
        cells = "".join(f"<div>{image(pixels)}<span>{word}</span></div>" for pixels, word in zip(pictures, words, strict=False))
        cards.append(f"<figure>{cells}</figure>")
    return f'<div class="copies">{"".join(cards)}</div>'


def row_of(row: dict[str, Any]) -> tuple[list[str], list[float]]:
    return [str(called) for called in row["names"]], [float(far) for far in row["distances"]]


def image(pixels: np.ndarray) -> str:
    data, small = png(pixels)
    kind = ' class="pixels"' if small else ""
    return f'<img alt=""{kind} src="{address(data, SMALL)}">'


def embedded(file: Path) -> str:
    """A picture as an address that holds it; empty where it cannot be read."""
    try:
        return address(file.read_bytes(), LIGHT)
    except OSError:
        return ""


def address(data: bytes, light: int) -> str:
    """A PNG as it is, or one of more than so many bytes packed with loss, and not wider than `WIDEST`. Errors: `OSError`."""
    if len(data) <= light:
        return f"data:image/png;base64,{base64.b64encode(data).decode()}"
    with Image.open(io.BytesIO(data)) as whole:
        picture = whole.convert("RGB")
    picture.thumbnail((WIDEST, 2 * WIDEST), Image.Resampling.LANCZOS)
    packed = io.BytesIO()
    picture.save(packed, "WEBP", quality=75)
    return f"data:image/webp;base64,{base64.b64encode(packed.getvalue()).decode()}"


def distance(known: Known) -> str:
    """How the distance to real pictures went, where a classifier measured it."""
    points = series(known.evals, "frechet")
    if not points:
        return ""
    judge = text(known.recipe.machine.judge or "a classifier")
    drawn = chart("Fréchet distance", [Series("", points)], lambda value: f"{value:.4g}", zero=True)
    told = (
        f"At every evaluation, by the features of {judge}, between {frechet.count(known.recipe):,} pictures made in {frechet.STEPS} steps "
    )
    told += "and the held-out ones. Less is better; numbers of another classifier or count are not to be compared with these."
    return paragraphs([told]) + f'<div class="charts">{drawn}</div>'


def quality(known: Known) -> str:
    """What `vitrail eval --features` found last."""
    try:
        found = json.loads(known.folder.quality.read_text(encoding="utf-8"))
        floor = found["metrics_of_real"] or {}
        beside = {key: f" (of real pictures {value:.4g})" for key, value in floor.items()}
        rows = [[text(SPOKEN[key]), f"{value:.4g}{beside.get(key, '')}"] for key, value in found["metrics"].items()]
        if found["asked"] is not None:
            rows.append(["Of the class asked for", f"{percent(found['asked'])} (of real pictures {percent(found['asked_of_real'])})"])
        told = f"{found['made']:,} made and {found['real']:,} real pictures of the {found['part']} part, "
        told += f"by {found['width']} features of {found['by']}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return paragraphs([text(told) + "."]) + table(["", ""], rows, "facts")
