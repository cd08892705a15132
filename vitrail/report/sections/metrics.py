"""How good the model is, class by class: the confusion matrix, the table of the classes, the calibration."""

import numpy as np

from vitrail.metrics.classification import BINS
from vitrail.report.page import words
from vitrail.report.page.charts import draw_reliability
from vitrail.report.page.markup import Section, bar, escape_name, escape_text, table
from vitrail.report.page.words import format_percent
from vitrail.report.run_data import RunData

DRAWN = 30  # classes that a confusion matrix holds
DEEP = 0.6  # shade from which a cell is so strong that its number takes the colour of the ground
DIGITS = 6  # pixels that a digit takes in a cell
COLUMNS = {"precision": "Precision", "recall": "Recall", "f1": "F1", "average_precision": "AP"}


def confusion(known: RunData) -> Section | None:
    """Rows are true, columns said. Of too many classes, those of the most frequent mistakes, and the rest of each row as one column."""
    if known.evaluation is None or "confusion" not in known.evaluation.metrics:
        return None
    counts = np.array(known.evaluation.metrics["confusion"], int)
    if len(counts) < 2:
        return None
    shown = most_confused(counts)
    body = '<p class="legend"><span class="swatch hit"></span>right <span class="swatch miss"></span>wrong; the deeper, the larger its share of the row. Rows: what is true. Columns: what was said.</p>'
    said = words.describe_confusions(counts, known.classes)
    if len(shown) < len(counts):
        said.append(
            f"Drawn are the {len(shown)} of {len(counts):,} classes with the most frequent mistakes; the others share the last column."
        )
    return Section("confusion", "What is taken for what", said, body + matrix(counts, shown, known.classes))


def most_confused(counts: np.ndarray) -> np.ndarray:
    """The classes to draw, in their order: those of the most frequent mistakes, pair by pair, as many as fit."""
    wrong = counts - np.diag(counts.diagonal())
    often = np.argsort(-wrong, axis=None, kind="stable")[: DRAWN * DRAWN]
    pairs = np.column_stack(np.unravel_index(often, wrong.shape))
    found = dict.fromkeys([*pairs.ravel().tolist(), *range(len(counts))])
    return np.sort(list(found)[:DRAWN])


def matrix(counts: np.ndarray, shown: np.ndarray, classes: list[str]) -> str:
    """A table that fits its cells to the room there is, down to what a number in them needs."""
    block = counts[np.ix_(shown, shown)]
    heads = [classes[i] for i in shown]
    if len(shown) < len(counts):
        block = np.column_stack([block, counts[shown].sum(1) - block.sum(1)])
        heads.append("others")
    totals = counts[shown].sum(1)
    least = max(21, DIGITS * len(str(block.max())) + 3)
    top = "".join(f'<th scope="col"><span>{escape_name(head)}</span></th>' for head in heads)
    rows = []
    for i, row in enumerate(block):
        told = classes[shown[i]]
        cells = "".join(cell(int(n), n / max(1, totals[i]), i == j, f"{told} → {heads[j]}") for j, n in enumerate(row))
        rows.append(f'<tr><th scope="row"><span>{escape_name(told)}</span></th>{cells}</tr>')
    style = f"--n:{len(heads)};--least:{least}px;--most:{46 if len(heads) > 4 else 76}px"
    return (
        f'<div class="scroll" tabindex="0"><table class="matrix" style="{style}"><thead><tr><td></td>{top}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def cell(count: int, share: float, right: bool, label: str) -> str:
    if not count:
        return "<td></td>"
    kind = ("hit" if right else "miss") + (" deep" if shade(share, right) > DEEP else "")
    return f'<td class="{kind}" style="--v:{shade(share, right):.3f}" title="{escape_text(label)}: {format_percent(share)}">{count}</td>'


def shade(share: float, right: bool) -> float:
    """How deep the colour of a cell is. Mistakes are drawn deeper than their share, as small ones matter."""
    return 0.08 + 0.92 * (share if right else share**0.6)


def per_class(known: RunData) -> Section | None:
    """Hardest first; a click on a heading sorts by it."""
    if known.evaluation is None or "f1" not in known.evaluation.metrics.get("per_class", {}):
        return None
    numbers = known.evaluation.metrics["per_class"]
    columns = [key for key in COLUMNS if key in numbers]
    order = sorted(range(len(known.classes)), key=lambda i: (numbers["f1"][i], i))
    most = max([1, *numbers["count"]])
    rows = [
        [
            escape_name(known.classes[i]),
            *(bar(numbers[key][i], f"{numbers[key][i]:.3f}") for key in columns),
            bar(numbers["count"][i] / most, f"{numbers['count'][i]:,}", "quiet"),
        ]
        for i in order
    ]
    head = ["Class", *(COLUMNS[key] for key in columns), "Images"]
    said = words.describe_classes(numbers, known.classes)
    return Section("classes", "Class by class", said, table(head, rows, "sortable"))


def calibration(known: RunData) -> Section | None:
    if known.evaluation is None or not known.evaluation.metrics.get("calibration"):
        return None
    rows, error = known.evaluation.metrics["calibration"], known.evaluation.metrics["calibration_error"]
    lines = [[f"{format_percent(said)}", format_percent(right), f"{int(count):,}"] for said, right, count in rows]
    body = f'<div class="charts">{draw_reliability(rows, BINS)}{table(["Says", "Is right", "Images"], lines)}</div>'
    return Section("calibration", "Does it know what it knows?", words.describe_calibration(rows, error), body)
