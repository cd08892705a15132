"""Summaries of inspections in plain sentences, which state only what the numbers show."""

from collections.abc import Sequence

import numpy as np

from vitrail.analysis.distance import Profile
from vitrail.analysis.gradient_flow import BlockFlow
from vitrail.analysis.positions import Filters
from vitrail.analysis.tokens import CkaMatrix, TokenSimilarity

GLOBAL = 0.9  # share of the distance of uniform attention from which a head is global
CLEAR = 0.5  # least rank correlation of a trend
SLIGHT = 0.1  # share of the maximum up to which a change is negligible
EARLY = 0.25  # share of the layers that are early


def rank_values(values: np.ndarray) -> np.ndarray:
    """Ranks in ascending order; equal values have the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    return (last - (counts - 1) / 2)[inverse]


def rank_correlation(values: Sequence[float] | np.ndarray) -> float:
    """The rank correlation of values with their order (Spearman), 0 where nothing changes."""
    ranks = rank_values(np.asarray(values, float))
    if len(ranks) < 2 or ranks.std() == 0:
        return 0.0
    return float(np.corrcoef(np.arange(len(ranks)), ranks)[0, 1])


def is_flat(values: Sequence[float] | np.ndarray) -> bool:
    """Whether values differ by no more than `SLIGHT`."""
    found = np.asarray(values, float)
    return bool(np.ptp(found) <= SLIGHT * np.abs(found).max())


def describe_change(values: Sequence[float] | np.ndarray) -> str:
    """The trend of values in words, with the rank correlation."""
    r = rank_correlation(values)
    if is_flat(values):
        return f"hardly changes with depth ({len(values)} layers)"
    how = "grows" if r >= CLEAR else "falls" if r <= -CLEAR else "neither grows nor falls clearly"
    return f"{how} with depth (rank correlation {r:+.2f} over {len(values)} layers)"


def describe_distances(profiles: Sequence[Profile], even: Sequence[float]) -> list[str]:
    """even: the mean distance in pixels of uniform attention over all keys, by layer."""
    placed = [(p, float(e)) for p, e in zip(profiles, even, strict=True) if bool(p.distance.isfinite().all())]
    if not placed:
        return ["No layer has positions for both queries and keys, so there is no distance."]
    means = [float(p.distance.mean()) for p, _ in placed]
    lines = []
    if len(placed) > 1:
        ends = f"{means[0]:.1f} pixels in the first layer and {means[-1]:.1f} in the last"
        lines.append(f"Mean attention distance is {ends}; it {describe_change(means)}.")
    if len(placed) > 1 and not is_flat(means):
        half = len(placed) // 2
        before = np.concatenate([p.distance.numpy() for p, _ in placed[:half]])
        after = np.concatenate([p.distance.numpy() for p, _ in placed[-half:]])
        farther = int((after > np.median(before)).sum())
        most = "most" if farther > len(after) / 2 else "not most"
        lines.append(
            f"{farther} of {len(after)} heads of the later half ({most}) have a larger distance than the median head "
            "of the earlier half."
        )
    if len(placed) == 1:
        lines.append(f"Mean attention distance is {means[0]:.1f} pixels.")
    early = placed[: max(1, round(EARLY * len(placed)))]
    heads = sum(len(p.distance) for p, _ in early)
    wide = sum(int((p.distance >= GLOBAL * e).sum()) for p, e in early)
    where = "the first layer" if len(early) == 1 else f"the first {len(early)} layers"
    number = "none of them is" if not wide else "some of them are" if wide < heads else "all of them are"
    lines.append(
        f"{wide} of the {heads} heads of {where} have at least {GLOBAL:.0%} of the distance of uniform attention "
        f"({early[0][1]:.1f} pixels in the first layer): in that sense {number} global."
    )
    shares = [float(p.entropy_share.mean()) for p in profiles]
    lines.append(
        f"Entropy, as a share of its maximum, is {shares[0]:.2f} in the first layer and {shares[-1]:.2f} in the last."
    )
    return lines


def describe_filters(filters: Filters) -> list[str]:
    shares = filters.shares.numpy().cumsum()
    enough = int((shares < 0.9).sum()) + 1
    first = f"The first of {len(shares)} components explains {shares[0]:.0%} of the variance of the filters"
    return [
        f"{first}; {enough} explain nine tenths."
        if enough <= len(shares)
        else f"{first}; all {len(shares)}, {shares[-1]:.0%}."
    ]


def describe_similarity(similarity: TokenSimilarity) -> list[str]:
    values = similarity.cosine.numpy()
    ends = f"{values[0]:.2f} after the first block and {values[-1]:.2f} after the last"
    last = f"Two patches of an image have a mean cosine of {ends}"
    return [f"{last}; it {describe_change(values).replace('layers', 'blocks')}." if len(values) > 1 else f"{last}."]


def describe_cka(cka: CkaMatrix, itself: bool) -> list[str]:
    """itself: the model is compared with itself."""
    values = cka.values.numpy()
    if itself:
        if len(values) < 2:
            return ["There is one block, so there is nothing to compare it with."]
        mean = np.diag(values, 1).mean()
        return [f"Consecutive blocks have a mean CKA of {mean:.2f}, the first and the last {values[0, -1]:.2f}."]
    best = values.argmax(1)
    order = rank_correlation(best) if len(best) > 1 else 0.0
    trend = "in about the same order" if order >= CLEAR else "in no clear order"
    return [
        f"The most similar block of the other model has a mean CKA of {values.max(1).mean():.2f}; the most "
        f"similar blocks are {trend} (rank correlation {order:+.2f})."
    ]


def describe_flow(flows: Sequence[BlockFlow]) -> list[str]:
    first, last = flows[0].out.gradient, flows[-1].out.gradient
    ratio = f", {first / last:.2g} times the last." if last > 0 else "."
    ends = f"{first:.2g} (root mean square) after the first block and {last:.2g} after the last"
    lines = [f"The gradient is {ends}{ratio}"]
    shares = [(max(one.branches), one.name) for one in flows if one.branches]
    if shares:
        mean = np.mean([s for one in flows for s in one.branches])
        most, where = max(shares)
        norms = "(its norm over that of the sum)"
        lines.append(f"A residual branch is {mean:.2f} of its sum in the mean {norms}; at most {most:.2f}, in {where}.")
    return lines
