"""The best weights and early stopping: the best evaluation of a run so far, and how long ago it was (Prechelt 1998)."""

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class EarlyStoppingState:
    """step, value: of the best evaluation, 0 and None where there is none yet; evaluations_since: after it, none of
    them better; evaluated_step: the step of the newest evaluation."""

    step: int = 0
    value: float | None = None
    evaluations_since: int = 0
    evaluated_step: int = 0

    def is_better(self, value: float, or_equal: bool = False) -> bool:
        """Whether `value` is better than the best, or with `or_equal` as good; NaN is neither."""
        if math.isnan(value):
            return False
        return self.value is None or value > self.value or (or_equal and value == self.value)

    def record(self, step: int, value: float, best: bool) -> None:
        """Records an evaluation; `best`: whether it is the new best."""
        self.evaluated_step = step
        if best:
            self.step, self.value, self.evaluations_since = step, value, 0
        else:
            self.evaluations_since += 1

    def numbers(self) -> dict[str, Any]:
        """The fields, for a checkpoint."""
        return asdict(self)
