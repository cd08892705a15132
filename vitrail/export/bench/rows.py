"""The rows of a bench: the times of each engine, and its accuracy and answers against torch in fp32."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from vitrail.assembly.model import ModelBundle
from vitrail.contracts import Predictions
from vitrail.evaluation.difference import measure_change
from vitrail.export.bench.candidates import Candidate
from vitrail.export.bench.measure import Speed, milliseconds
from vitrail.export.bench.table import Row
from vitrail.export.compare import COMPARE
from vitrail.export.images import ProofImages
from vitrail.export.int8_data import Int8Images
from vitrail.export.side_by_side import count_changed, predict_split
from vitrail.inference.engine import Engine


class Opened(NamedTuple):
    candidate: Candidate
    engine: Engine
    memory: int | None


class BenchImages(NamedTuple):
    evaluated: Int8Images
    proof: ProofImages  # of which answers are counted, where there are no labels


def measure_rows(opened: list[Opened], speeds: Mapping[str, Speed], batch: int, bundle: ModelBundle,
                 data: BenchImages, say: Callable[[str], None]) -> list[Row]:  # fmt: skip
    """Accuracy and answers of each against torch in fp32, which is the first one; and its times."""
    rows, base, images = [], opened[0].engine, data.evaluated
    reference: Predictions | None = None
    for one in opened:
        name, speed = one.candidate.name, speeds[one.candidate.name]
        change = None
        answers, changed = count_changed(base, one.engine, bundle, data.proof)
        if images.held_out is not None:
            say(f"evaluating {name}")
            predictions = predict_split(one.engine, bundle, images.held_out.split)
            reference = reference or predictions
            change = measure_change(bundle.task, reference, predictions)
            if bundle.task.is_classifier:
                ours, theirs = ({"probabilities": p.rows.numpy()} for p in (predictions, reference))
                difference = COMPARE["probabilities"](ours, theirs, bundle.task.multi_label)
                answers, changed = difference.answers, difference.changed
        rows.append(Row(
            name, milliseconds(speed.singles, 0.5), milliseconds(speed.singles, 0.95),
            1000 * batch / milliseconds(speed.batches, 0.5), 1000 * min(speed.processor) / batch, one.memory,
            one.candidate.file_bytes, change, answers, changed, one.candidate.command,
        ))  # fmt: skip
    return rows
