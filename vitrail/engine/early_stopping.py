"""Early stopping: the best evaluation of a run so far, and how long ago it was (Prechelt 1998)."""

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Standing:
    """step: of the best evaluation, 0 where there is none yet; value: what it gave; since: evaluations after it, none of them better;
    judged: the step of the newest evaluation."""

    step: int = 0
    value: float | None = None
    since: int = 0
    judged: int = 0

    def better(self, value: float) -> bool:
        """Whether `value` beats the best. What is no number beats nothing."""
        return not math.isnan(value) and (self.value is None or value > self.value)

    def note(self, step: int, value: float, best: bool) -> None:
        """Takes an evaluation into account; `best`: it is the one to beat from now on."""
        self.judged = step
        if best:
            self.step, self.value, self.since = step, value, 0
        else:
            self.since += 1

    def numbers(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return asdict(self)
