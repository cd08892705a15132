"""The softmax of attention for random queries and keys: how sharp it is at a given scale."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

WAYS = ("q k", "q k / sqrt(d)", "normalised")
SCALES = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)  # of the entries of queries and keys
QUERIES = 256


def logits(width: int, tokens: int, scale: float, way: str, seed: int) -> tuple[Tensor, int]:
    """Logits [queries keys] of normal queries and keys with standard deviation `scale`, and the number of keys."""
    generator = torch.Generator().manual_seed(seed)
    q, k = (scale * torch.randn(n, width, generator=generator, dtype=torch.float64) for n in (QUERIES, tokens))
    if way == "normalised":
        q, k = (F.layer_norm(x, (width,)) for x in (q, k))
    products = q @ k.T
    return (products if way == "q k" else products / width**0.5), tokens


def sharpness(scores: Tensor, tokens: int) -> dict[str, float]:
    """Means over queries.

    largest: the greatest weight; entropy: as a fraction of its maximum, log(keys); slope: 1 - sum of squared weights,
    the trace of the derivative of softmax: 0 where no gradient passes.
    """
    weights = scores.softmax(-1)
    entropy = -(weights * scores.log_softmax(-1)).sum(-1)
    return {
        "largest": float(weights.amax(-1).mean()),
        "entropy": float(entropy.mean() / math.log(tokens)) if tokens > 1 else 0.0,
        "slope": float(1 - weights.square().sum(-1).mean()),
    }
