"""Values of more than 8 bits -> 0 to 255."""

import numpy as np

from vitrail.errors import BadImage


def value_range(dtype: np.dtype, lowest: float, highest: float) -> tuple[float, float]:
    """The values mapped to 0 and 255, given dtype and extremes: the rule of `decode` above 8 bits."""
    if not np.isfinite([lowest, highest]).all():
        raise BadImage("has numbers that are not finite", "replace NaN and infinity before storing the image")
    whole = {"bool": (0, 1), "uint8": (0, 255), "uint16": (0, 65535)}
    if dtype.name in whole:
        return whole[dtype.name]
    top = 1 if dtype.kind == "f" else 65535
    return (0, top) if lowest >= 0 and highest <= top else (float(lowest), float(highest))


def scale_to_bytes(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """`values` of any shape and dtype as uint8, `low` to 0 and `high` to 255, rounded. A flat image (low = high)
    becomes 0."""
    if values.dtype == np.uint8 and (low, high) == (0, 255):
        return values
    out = np.empty(values.shape, np.uint8)
    step = max(1, 2**22 // max(1, values[:1].size))  # rows at a time: a float64 copy of a whole image is large
    for i in range(0, len(values), step):
        block = values[i : i + step].astype(np.float64) - low
        out[i : i + step] = np.rint(block * (255.0 / (high - low)) if high > low else block * 0)
    return out
