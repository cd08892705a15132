"""One row an image: annotation, prediction and whether it is right, as a CSV file."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vitrail.errors import UsageError
from vitrail.evaluation.evaluate import Evaluation
from vitrail.storage.atomic import write_file

SURE = 0.5  # probability from which one of several labels is predicted


def write_csv(file: Path, evaluation: Evaluation, classes: tuple[str, ...]) -> None:
    """Writes the table of an evaluation. Errors: `UsageError` where it cannot be written."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows(evaluation, classes))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, text.getvalue().encode(errors="surrogateescape"))
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror or error}", "choose another --csv") from None


def rows(evaluation: Evaluation, classes: tuple[str, ...]) -> Iterator[list[Any]]:
    """The heading, then a row for each image. Of classes: the label, the predicted class and its probability, the
    probability of the label; of masks and boxes, and of generated images: the score or loss of the image."""
    images = evaluation.images
    names, arrays = images.split.names, images.task.evaluator().arrays(evaluation.predictions)
    if "probabilities" in arrays and arrays["probabilities"].shape[1:] == (len(classes),):
        yield from class_rows(names, arrays["probabilities"], arrays["targets"], classes)
        return
    values = {key: array for key, array in arrays.items() if array.shape in ((len(names),), (len(names), 1))}
    yield ["image", *values]
    for i, name in enumerate(names):
        yield [name, *(round(float(array[i].item()), 6) for array in values.values())]


def class_rows(
    names: Any, probabilities: np.ndarray, targets: np.ndarray, classes: tuple[str, ...]
) -> Iterator[list[Any]]:
    yield ["image", "label", "prediction", "correct", "probability", "probability_of_label"]
    for name, row, target in zip(names, probabilities, targets, strict=True):
        if targets.ndim == 2:
            true, predicted = (np.flatnonzero(values >= SURE) for values in (target, row))
            sure = float(row[predicted].min()) if len(predicted) else float(1 - row.max())
            labels = ["|".join(classes[i] for i in which) for which in (true, predicted)]
            least = round(float(row[true].min()), 6) if len(true) else ""
            yield [name, *labels, int(labels[0] == labels[1]), round(sure, 6), least]
        else:
            best = int(row.argmax())
            of_label = round(float(row[int(target)]), 6)
            yield [
                name, classes[int(target)], classes[best], int(best == target), round(float(row[best]), 6), of_label,
            ]  # fmt: skip
