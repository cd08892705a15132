"""How varied features are, which needs no label: features that learned without labels may collapse, to one point or to
a few directions (Jing et al. 2022, arxiv.org/abs/2110.09348).

The standard deviation of every feature is that of SimSiam (Chen and He 2021, arxiv.org/abs/2011.10566, section 4.1):
of features at length 1, times the root of their number, so that it is 1 for directions that are evenly spread and 0
for a single point, whatever the scale. The effective rank is that of Roy and Vetterli (2007), which predicts the
accuracy of a linear probe (RankMe, Garrido et al. 2023, arxiv.org/abs/2210.02885), here of centred features.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

POINT = 0.01  # the mean standard deviation below which all images have the same features
LINE = 1.5  # the effective rank below which they lie on a line
POINT_NOTE = (
    "the features have collapsed: those of all images are nearly the same; the learning rate may be too high, or what "
    "keeps them apart (centring, a regulariser, the mask ratio) too weak"
)
LINE_NOTE = "the features have collapsed to a line: between two images they differ in one direction only"


def feature_std(features: Tensor) -> Tensor:
    """The standard deviation of every feature [D] over images [N D], in fp64. Of one image 0."""
    unit = F.normalize(features.double(), dim=1) * features.shape[1] ** 0.5
    return unit.std(0, correction=0)


def spectrum(features: Tensor) -> Tensor:
    """The singular values of centred features [N D], largest first, divided by their sum: fp64 [min(N, D)]; zeros of
    features that do not differ."""
    x = features.double()
    values = torch.linalg.svdvals(x - x.mean(0))
    values = torch.where(values > values.max() * 1e-9, values, 0)
    scale = float(x.abs().max())
    if float(values.sum()) <= 1e-6 * scale * len(x) ** 0.5:  # rounding of fp32
        return torch.zeros_like(values)
    return values / values.sum()


def effective_rank(shares: Tensor) -> float:
    """Of a `spectrum`: the exponential of its entropy, from 1 (a line) to the number of features; 0 of one point."""
    if not float(shares.sum()):
        return 0.0
    return float(torch.special.entr(shares).sum().exp())


def variety(features: Tensor, shares: Tensor) -> dict[str, float]:
    """ "feature_std" and "least_feature_std", the mean and the least over all features, and "effective_rank". shares:
    the `spectrum` of the same features."""
    std = feature_std(features)
    values = {"feature_std": float(std.mean()), "least_feature_std": float(std.min())}
    return {**values, "effective_rank": effective_rank(shares)}


def collapse_note(values: dict[str, float]) -> str:
    """A sentence on a collapse that `variety` shows; "" where there is none."""
    if values["feature_std"] < POINT:
        return POINT_NOTE
    return LINE_NOTE if values["effective_rank"] < LINE else ""
