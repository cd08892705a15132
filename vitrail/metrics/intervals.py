"""95 % intervals of metrics: how much the choice of the evaluated images alone can change them."""

from collections.abc import Callable
from math import sqrt
from statistics import NormalDist

import numpy as np

LEVEL = 0.95
NORMAL = NormalDist().inv_cdf((1 + LEVEL) / 2)  # standard deviations to either side
RESAMPLES, MOST = 1000, 1 << 27  # resamples of a bootstrap at most; numbers in all of them together
GROUPS = 10  # of a jackknife


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """The interval of a fraction of `count` images (Wilson 1927)."""
    hits = round(share * count)
    square = NORMAL**2 / count
    middle = (hits / count + square / 2) / (1 + square)
    reach = sqrt(square * (hits / count * (1 - hits / count) + square / 4)) / (1 + square)
    # of no hit, or of hits alone, one end is known, and rounding must not move it
    return 0.0 if hits == 0 else middle - reach, 1.0 if hits == count else middle + reach


def chance_difference(share: float, count: int) -> float:
    """By how much two fractions of `count` images may differ by chance alone, in 95 % of cases (Agresti and Caffo
    2000); 0 where the number of images is unknown."""
    if count < 1:
        return 0.0
    near = (share * count + 2) / (count + 4)
    return float(1.96 * np.sqrt(2 * near * (1 - near) / (count + 4)))


def chance_loss(loss: float, count: int) -> float:
    """The same for two mean losses: those of single images vary about as much as they are large."""
    return float(1.96 * abs(loss) * np.sqrt(2 / count)) if count else 0.0


def bootstrap_interval(statistic: Callable[[np.ndarray], float], count: int, width: int = 1) -> tuple[float, float]:
    """The central 95 % of a statistic of images, given their indices, over resamples of `count` images; always the same
    resamples. width: numbers of an image, for fewer resamples where there are many."""
    generator = np.random.default_rng(0)
    times = max(100, min(RESAMPLES, MOST // max(1, count * width)))
    statistics = [statistic(generator.integers(0, count, count)) for _ in range(times)]
    low, high = np.quantile(statistics, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def jackknife_interval(statistic: Callable[[np.ndarray], float], count: int, value: float) -> tuple[float, float]:
    """The interval of a statistic that takes long, of value `value`, from ten evaluations, each without a tenth of the
    images (Quenouille 1956); of a fraction, so within 0 and 1."""
    reach = jackknife_reach(statistic, count)
    return max(0.0, value - reach), min(1.0, value + reach)


def jackknife_reach(statistic: Callable[[np.ndarray], float], count: int) -> float:
    """How far such an interval reaches to either side."""
    from scipy.special import stdtrit

    groups = min(GROUPS, count)
    which = np.arange(count) % groups
    without = np.array([statistic(np.flatnonzero(which != group)) for group in range(groups)])
    error = np.sqrt((groups - 1) / groups * ((without - without.mean()) ** 2).sum())
    return float(stdtrit(groups - 1, (1 + LEVEL) / 2) * error)
