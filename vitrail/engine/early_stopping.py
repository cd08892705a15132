"""Early stopping: the best evaluation of a run so far, and how long ago it was (Prechelt 1998)."""

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class EarlyStoppingState:
    """step: of the best evaluation, 0 where there is none yet; value: what it gave; since: evaluations after it, none of them better;
    judged: the step of the newest evaluation."""

    step: int = 0
    value: float | None = None
    evaluations_since: int = 0
    evaluated_step: int = 0

    def is_better(self, value: float) -> bool:
        """Whether `value` beats the best. What is no number beats nothing."""
        return not math.isnan(value) and (self.value is None or value > self.value)

    def record(self, step: int, value: float, best: bool) -> None:
        """Takes an evaluation into account; `best`: it is the one to beat from now on."""
        self.evaluated_step = step
        if best:
            self.step, self.value, self.evaluations_since = step, value, 0
        else:
            self.evaluations_since += 1

    def numbers(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return asdict(self)
