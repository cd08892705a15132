"""Which parameters of a test `make test` takes; `make test-all` takes all."""

import pytest


def every_third(values):
    """For `pytest.mark.parametrize`: the first, the last and every third of values are quick, the others slow. A tuple
    is the values of several arguments."""
    values = [v if isinstance(v, tuple) else (v,) for v in values]
    quick = {len(values) - 1, *range(0, len(values), 3)}
    return [pytest.param(*v, marks=() if i in quick else pytest.mark.slow) for i, v in enumerate(values)]


def the_first(values):
    """The first is quick, the others slow: where each counts a whole model of published size."""
    values = [v if isinstance(v, tuple) else (v,) for v in values]
    return [pytest.param(*v, marks=pytest.mark.slow if i else ()) for i, v in enumerate(values)]


def spread(values, count):
    """So many of values are quick, evenly spread from the first to the last; the others are slow. A tuple is the values
    of several arguments."""
    values = [v if isinstance(v, tuple) else (v,) for v in values]
    quick = {round(i * (len(values) - 1) / max(1, count - 1)) for i in range(count)}
    return [pytest.param(*v, marks=() if i in quick else pytest.mark.slow) for i, v in enumerate(values)]
