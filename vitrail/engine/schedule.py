"""Learning rates as pure functions of the step."""

import math


def lr_factor(step: int, steps: int, warmup: int, kind: str = "cosine", final: float = 0.0) -> float:
    """The factor on the peak learning rate at a step: a linear rise over `warmup` steps, then "cosine", "linear" or "constant"
    down to `final` at the end.

    >>> [round(lr_factor(s, 10, 2), 2) for s in (0, 1, 2, 9)]
    [0.5, 1.0, 1.0, 0.04]
    """
    if step < warmup:
        return (step + 1) / warmup
    if kind == "constant":
        return 1.0
    done = (step - warmup) / max(1, steps - warmup)
    fall = 0.5 * (1 + math.cos(math.pi * done)) if kind == "cosine" else 1 - done
    return final + (1 - final) * fall
