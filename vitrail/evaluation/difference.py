"""Two models, or two forms of one, on the same images: by how much the metric that ranks them differs."""

from typing import NamedTuple

import numpy as np

from vitrail.contracts import Predictions, Task
from vitrail.metrics.intervals import bootstrap_interval, jackknife_reach


class Change(NamedTuple):
    """A metric before and after. low, high: the 95 % interval of `after - before` of the same images."""

    metric: str
    before: float
    after: float
    low: float
    high: float
    images: int
    method: str

    @property
    def value(self) -> float:
        return self.after - self.before

    def sentence(self) -> str:
        return (
            f"{self.metric} {100 * self.before:.2f} % before and {100 * self.after:.2f} % after: "
            f"{100 * self.value:+.2f} points (95 % interval {100 * self.low:+.2f} to {100 * self.high:+.2f}, "
            f"{self.method} over the same {self.images:,} images)"
        )


def measure_change(task: Task, before: Predictions, after: Predictions) -> Change:
    """Of a task's metric, from the predictions of the same images in the same order."""
    evaluator, name, count = task.evaluator(), task.metric.name, len(before.rows)

    def measure(predictions: Predictions) -> float:
        return float(evaluator.metrics(predictions)[name])

    def change(indices: np.ndarray) -> float:
        return measure(select(after, indices)) - measure(select(before, indices))

    one, other = measure(before), measure(after)
    if count < 2:
        return Change(name, one, other, -1.0, 1.0, count, "no interval")
    if name == "top1":
        hits = [(p.rows.argmax(1) == p.targets).numpy().astype(float) for p in (before, after)]
        gain = hits[1] - hits[0]
        low, high = bootstrap_interval(lambda indices: float(gain[indices].mean()), count)
        return Change(name, one, other, low, high, count, "bootstrap")
    reach = jackknife_reach(change, count)
    return Change(name, one, other, other - one - reach, other - one + reach, count, "jackknife")


def select(predictions: Predictions, indices: np.ndarray) -> Predictions:
    """Those of some images."""
    annotations = [predictions.annotations[i] for i in indices] if len(predictions.annotations) else ()
    targets = predictions.targets[indices] if len(predictions.targets) else predictions.targets
    return Predictions(predictions.rows[indices], targets, annotations)
