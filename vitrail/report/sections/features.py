"""Features that were learned without labels: how varied they are, what k-NN and a linear probe made of them as they
learned, and what the task draws of held-out images."""

import base64

import numpy as np

from vitrail.data.subset import evenly_spaced
from vitrail.errors import VitrailError
from vitrail.evaluation import look
from vitrail.evaluation.drawings import draw_images
from vitrail.inference.predictor import load_predictor
from vitrail.report.page.charts import Series, draw_chart
from vitrail.report.page.markup import Section, escape_text, table
from vitrail.report.page.words import format_percent
from vitrail.report.run_data import RunData
from vitrail.report.sections.headline import series
from vitrail.report.sections.images import png

DRAWN = 8  # images
SCORES = {"knn_top1": "k-NN", "probe_top1": "linear probe", "probe_mAP": "linear probe (mAP)"}
VARIETY = {
    "feature_std": "standard deviation of a feature, on average",
    "least_feature_std": "of the least varied feature",
    "effective_rank": "effective rank",
}


def variety(run: RunData) -> Section | None:
    """The variety of the features, a collapse, and the accuracy by step; None of a task that measures none."""
    metrics = {} if run.evaluation is None else run.evaluation.metrics
    if "effective_rank" not in metrics:
        return None
    spectrum = [float(share) for share in metrics.get("spectrum", ())]
    sentences = [
        "Features that learn without labels may collapse: to one point, where every standard deviation is 0 and the "
        "effective rank too, or to few directions. A standard deviation of 1 is that of directions that are evenly "
        f"spread; the effective rank is at most {len(spectrum):,}, the number of features or of images.",
        *(f"<strong>{escape_text(note)}</strong>." for note in metrics.get("notes", ())),
    ]
    rows = [(title, f"{metrics[key]:.3g}") for key, title in VARIETY.items() if key in metrics]
    rows += [(title, format_percent(metrics[key])) for key, title in SCORES.items() if key in metrics]
    body = table(["", ""], rows)
    curves = [Series(title, points) for key, title in SCORES.items() if len(points := series(run.evals, key)) > 1]
    if curves:
        sentences.append(
            "k-NN (20 neighbours) and the linear probe know the label of every second held-out image of a class, and "
            "are asked about the others. vitrail probe RUN gives them the labels of the training images."
        )
        body += draw_chart("accuracy of k-NN and of a linear probe on held-out images", curves)
    ranks = series(run.evals, "effective_rank")
    if len(ranks) > 1:
        body += draw_chart("effective rank of the features", [Series("effective rank", ranks)])
    return Section("variety", "Variety of the features", sentences, body)


def drawings(run: RunData) -> Section | None:
    """A row of drawings for each of a few held-out images; None of a task that draws nothing."""
    split = run.dataset.splits.get(run.evaluation.part) if run.dataset and run.evaluation else None
    if not run.is_finished or split is None:
        return None
    try:
        predictor = load_predictor(run.folder.weights)
        found = list(look.read_images(split, [int(i) for i in evenly_spaced(len(split), DRAWN)]))
        drawn = draw_images(predictor, [pixels for _, pixels in found], [index for index, _ in found])
    except VitrailError as error:
        return Section("drawings", "Reconstructions", [f"There are none: {escape_text(error.what)}."], "")
    if not drawn:
        return None
    titles = list(drawn[0].panels)
    rows = [[figure(one.panels[title]) for title in titles] for one in drawn]
    text = (
        "What the model sees of a held-out image, what it predicts of the rest, and the image. The images are evenly "
        "spaced over the part, not picked."
    )
    return Section("drawings", "Reconstructions", [text], table(list(map(escape_text, titles)), rows))


def figure(pixels: np.ndarray) -> str:
    data, small = png(pixels)
    kind = ' class="pixels"' if small else ""
    return f'<img alt=""{kind} src="data:image/png;base64,{base64.b64encode(data).decode()}">'
