"""Classification metrics: the confusion matrix, metrics per class, calibration; and of
retrieval, images by captions and captions by images."""

import numpy as np

from vitrail.metrics.classification import BINS
from vitrail.metrics.retrieval import KS
from vitrail.report.page import words
from vitrail.report.page.charts import draw_reliability
from vitrail.report.page.markup import Section, bar, escape_name, escape_text, table
from vitrail.report.page.words import format_percent
from vitrail.report.run_data import RunData

MOST = 30  # classes shown in a confusion matrix at most
DEEP = 0.6  # shade from which the number in a cell takes the background colour
DIGITS = 6  # pixels of a digit in a cell
WAYS = (("image_to_text", "Captions of an image"), ("text_to_image", "Images of a caption"))
COLUMNS = {"precision": "Precision", "recall": "Recall", "f1": "F1", "average_precision": "AP"}


def confusion(run: RunData) -> Section | None:
    """Rows are annotations, columns predictions.

    Of too many classes, those with the most frequent errors; the rest of each row is one column.
    """
    if run.evaluation is None or "confusion" not in run.evaluation.metrics:
        return None
    counts = np.array(run.evaluation.metrics["confusion"], int)
    if len(counts) < 2:
        return None
    indices = most_confused(counts)
    body = (
        '<p class="legend"><span class="swatch hit"></span>correct <span class="swatch miss"></span>wrong; the darker, '
        "the larger the fraction of the row. Rows: annotation. Columns: prediction.</p>"
    )
    sentences = words.describe_confusions(counts, run.classes)
    if len(indices) < len(counts):
        sentences.append(
            f"Shown are the {len(indices)} of {len(counts):,} classes with the most frequent errors; "
            "the last column sums the others."
        )
    return Section("confusion", "Confusion matrix", sentences, body + matrix(counts, indices, run.classes))


def most_confused(counts: np.ndarray) -> np.ndarray:
    """The classes to show, in order: those with the most frequent errors, pair by pair, as many as fit."""
    wrong = counts - np.diag(counts.diagonal())
    often = np.argsort(-wrong, axis=None, kind="stable")[: MOST * MOST]
    pairs = np.column_stack(np.unravel_index(often, wrong.shape))
    ranked = dict.fromkeys([*pairs.ravel().tolist(), *range(len(counts))])
    return np.sort(list(ranked)[:MOST])


def matrix(counts: np.ndarray, indices: np.ndarray, classes: list[str]) -> str:
    """A table whose cells shrink to the available width, down to the width of the largest number."""
    block = counts[np.ix_(indices, indices)]
    heads = [classes[i] for i in indices]
    if len(indices) < len(counts):
        block = np.column_stack([block, counts[indices].sum(1) - block.sum(1)])
        heads.append("others")
    totals = counts[indices].sum(1)
    least = max(21, DIGITS * len(str(block.max())) + 3)
    top = "".join(f'<th scope="col"><span>{escape_name(head)}</span></th>' for head in heads)
    rows = []
    for i, row in enumerate(block):
        target = classes[indices[i]]
        cells = "".join(
            cell(int(n), n / max(1, totals[i]), i == j, f"{target} → {heads[j]}") for j, n in enumerate(row)
        )
        rows.append(f'<tr><th scope="row"><span>{escape_name(target)}</span></th>{cells}</tr>')
    style = f"--n:{len(heads)};--least:{least}px;--most:{46 if len(heads) > 4 else 76}px"
    return (
        f'<div class="scroll" tabindex="0"><table class="matrix" style="{style}"><thead><tr><td></td>{top}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def cell(count: int, share: float, correct: bool, label: str) -> str:
    if not count:
        return "<td></td>"
    kind = ("hit" if correct else "miss") + (" deep" if shade(share, correct) > DEEP else "")
    title = f"{escape_text(label)}: {format_percent(share)}"
    return f'<td class="{kind}" style="--v:{shade(share, correct):.3f}" title="{title}">{count}</td>'


def shade(share: float, correct: bool) -> float:
    """The opacity of a cell. Errors are darker than their fraction, so that rare ones stay visible."""
    return 0.08 + 0.92 * (share if correct else share**0.6)


def per_class(run: RunData) -> Section | None:
    """Metrics per class, lowest F1 first; a click on a heading sorts by it."""
    if run.evaluation is None or "f1" not in run.evaluation.metrics.get("per_class", {}):
        return None
    numbers = run.evaluation.metrics["per_class"]
    columns = [key for key in COLUMNS if key in numbers]
    order = sorted(range(len(run.classes)), key=lambda i: (numbers["f1"][i], i))
    most = max([1, *numbers["count"]])
    rows = [
        [
            escape_name(run.classes[i]),
            *(bar(numbers[key][i], f"{numbers[key][i]:.3f}") for key in columns),
            bar(numbers["count"][i] / most, f"{numbers['count'][i]:,}", "quiet"),
        ]
        for i in order
    ]
    head = ["Class", *(COLUMNS[key] for key in columns), "Images"]
    sentences = words.describe_classes(numbers, run.classes)
    return Section("classes", "Metrics per class", sentences, table(head, rows, "sortable"))


def calibration(run: RunData) -> Section | None:
    if run.evaluation is None or not run.evaluation.metrics.get("calibration"):
        return None
    rows, error = run.evaluation.metrics["calibration"], run.evaluation.metrics["calibration_error"]
    lines = [
        [f"{format_percent(confidence)}", format_percent(right), f"{int(count):,}"] for confidence, right, count in rows
    ]
    body = (
        f'<div class="charts">{draw_reliability(rows, BINS)}{table(["Confidence", "Accuracy", "Images"], lines)}</div>'
    )
    return Section("calibration", "Calibration", words.describe_calibration(rows, error), body)


def retrieval(run: RunData) -> Section | None:
    """Recall@K both ways, beside that of chance."""
    metrics = run.evaluation.metrics if run.evaluation else {}
    if "mean_recall" not in metrics:
        return None
    images, texts = metrics["count"], metrics["texts"]
    heads = ["", *(f"Recall@{k}" for k in KS), "Median rank"]
    rows = [
        [title, *(format_percent(metrics[f"{name}_r{k}"]) for k in KS), f"{metrics[f'{name}_median_rank']:,.1f}"]
        for name, title in WAYS
    ]
    text = (
        f"Each of {images:,} images is asked for its captions among all {texts:,}, and each caption for its image. "
        f"Recall@K is how often one that belongs is among the first K; at random the image of a caption is among the "
        f"first {KS[-1]} in {format_percent(min(1.0, KS[-1] / max(1, images)))} of cases."
    )
    return Section("retrieval", "Retrieval", [text], table(heads, rows))
