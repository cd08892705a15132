"""Inputs with outliers: eight bits for the whole of their range leave too few for the rest. Trained transformers have
them in a few layers (Dettmers et al. 2022, arXiv 2208.07339; Darcet et al. 2024, arXiv 2309.16588)."""

from collections.abc import Iterable, Mapping

import numpy as np

MOST_NOISE = 0.1  # rounding error of a layer's input in 8 bits, relative to its size, from which on it stays in fp32
BATCHES = 4  # of images, that are looked at


def rounding_noise(values: np.ndarray) -> float:
    """The error of rounding to 256 steps between the least and the greatest value, relative to the size of a token:
    the median over tokens [... D], or over images [B C H W], of the root mean square."""
    exact = values.astype(np.float64)
    axes = (1, 2, 3) if exact.ndim == 4 else -1
    size = float(np.median(np.sqrt((exact**2).mean(axis=axes))))
    step = (max(0.0, float(exact.max())) - min(0.0, float(exact.min()))) / 255
    return step / np.sqrt(12) / max(size, 1e-12)


def find_noisy(each: Iterable[Mapping[str, np.ndarray]]) -> set[str]:
    """Names of the inputs that are too noisy in any batch."""
    return {name for values in each for name, value in values.items() if rounding_noise(value) > MOST_NOISE}


def describe_kept(kept: int, count: int) -> str:
    """The end of a sentence on how many layers stay in fp32."""
    return f"; {kept} of {count} layers stay in fp32, whose inputs have outliers" if kept else ""
