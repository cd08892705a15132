"""What numbers from inside a model say, in plain sentences: nothing is said that the numbers do not show."""

from collections.abc import Sequence

import numpy as np

from vitrail.analysis.distance import Profile
from vitrail.analysis.gradient_flow import BlockFlow
from vitrail.analysis.positions import Filters
from vitrail.analysis.tokens import CkaMatrix, TokenSimilarity

GLOBAL = 0.9  # share of the distance of even attention from which a head looks everywhere
CLEAR = 0.5  # rank correlation from which a trend is one
SLIGHT = 0.1  # share of the greatest value up to which a change is none
EARLY = 0.25  # share of the layers that are the first ones


def rank_values(values: np.ndarray) -> np.ndarray:
    """Places in ascending order, equal values sharing the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    return (last - (counts - 1) / 2)[inverse]


def rank_correlation(values: Sequence[float] | np.ndarray) -> float:
    """The rank correlation of values with their order (Spearman), 0 where nothing changes."""
    found = rank_values(np.asarray(values, float))
    if len(found) < 2 or found.std() == 0:
        return 0.0
    return float(np.corrcoef(np.arange(len(found)), found)[0, 1])


def flat(values: Sequence[float] | np.ndarray) -> bool:
    """Whether values hardly differ."""
    found = np.asarray(values, float)
    return bool(np.ptp(found) <= SLIGHT * np.abs(found).max())


def describe_change(values: Sequence[float] | np.ndarray) -> str:
    """How values went, in words, with the rank correlation."""
    r = rank_correlation(values)
    if flat(values):
        return f"hardly changes with depth ({len(values)} layers)"
    how = "grows" if r >= CLEAR else "falls" if r <= -CLEAR else "neither grows nor falls clearly"
    return f"{how} with depth (rank correlation {r:+.2f} over {len(values)} layers)"


def describe_distances(profiles: Sequence[Profile], even: Sequence[float]) -> list[str]:
    """even: the mean distance in pixels that attention spread evenly over all keys would have, by layer."""
    placed = [(p, float(e)) for p, e in zip(profiles, even, strict=True) if bool(p.distance.isfinite().all())]
    if not placed:
        return ["No layer looks from places at places, so there is no distance to tell."]
    means = [float(p.distance.mean()) for p, _ in placed]
    said = []
    if len(placed) > 1:
        ends = f"{means[0]:.1f} pixels in the first layer and {means[-1]:.1f} in the last"
        said.append(f"Mean attention distance is {ends}; it {describe_change(means)}.")
    if len(placed) > 1 and not flat(means):
        half = len(placed) // 2
        before = np.concatenate([p.distance.numpy() for p, _ in placed[:half]])
        after = np.concatenate([p.distance.numpy() for p, _ in placed[-half:]])
        farther = int((after > np.median(before)).sum())
        most = "most" if farther > len(after) / 2 else "not most"
        said.append(
            f"{farther} of {len(after)} heads of the later half look farther than the median head of the earlier half: {most}."
        )
    if len(placed) == 1:
        said.append(f"Mean attention distance is {means[0]:.1f} pixels.")
    early = placed[: max(1, round(EARLY * len(placed)))]
    heads = sum(len(p.distance) for p, _ in early)
    wide = sum(int((p.distance >= GLOBAL * e).sum()) for p, e in early)
    where = "the first layer" if len(early) == 1 else f"the first {len(early)} layers"
    told = (
        "none of them is global"
        if not wide
        else "some of them are global"
        if wide < heads
        else "all of them are global"
    )
    said.append(
        f"{wide} of the {heads} heads of {where} look at least {GLOBAL:.0%} as far as even attention to all that they can see "
        f"({early[0][1]:.1f} pixels in the first layer) would: in that sense {told}."
    )
    shares = [float(p.entropy_share.mean()) for p in profiles]
    said.append(
        f"Entropy, as a share of the most there could be, is {shares[0]:.2f} in the first layer and {shares[-1]:.2f} in the last."
    )
    return said


def describe_filters(found: Filters) -> list[str]:
    shares = found.shares.numpy().cumsum()
    enough = int((shares < 0.9).sum()) + 1
    first = f"The first of {len(shares)} components explains {shares[0]:.0%} of what the filters differ in"
    return [
        f"{first}; {enough} explain nine tenths."
        if enough <= len(shares)
        else f"{first}; all {len(shares)}, {shares[-1]:.0%}."
    ]


def describe_similarity(found: TokenSimilarity) -> list[str]:
    values = found.cosine.numpy()
    last = f"Two patches of an image have a cosine of {values[0]:.2f} after the first block and {values[-1]:.2f} after the last"
    return [f"{last}; it {describe_change(values).replace('layers', 'blocks')}." if len(values) > 1 else f"{last}."]


def describe_cka(found: CkaMatrix, itself: bool) -> list[str]:
    """itself: the model is compared with itself."""
    values = found.values.numpy()
    if itself:
        if len(values) < 2:
            return ["There is one block, so there is nothing to compare it with."]
        return [f"Blocks one after the other have a CKA of {np.diag(values, 1).mean():.2f} in the mean, the first and the last "
                f"{values[0, -1]:.2f}."]  # fmt: skip
    best = values.argmax(1)
    order = rank_correlation(best) if len(best) > 1 else 0.0
    told = "in about the same order" if order >= CLEAR else "in no clear order"
    return [
        f"The block of the other model that is most like a block has a CKA of {values.max(1).mean():.2f} with it in the mean; the likest "
        f"blocks come {told} (rank correlation {order:+.2f})."
    ]


def describe_flow(found: Sequence[BlockFlow]) -> list[str]:
    first, last = found[0].out.gradient, found[-1].out.gradient
    said = [f"The gradient is {first:.2g} (root mean square) after the first block and {last:.2g} after the last"
            + (f", {first / last:.2g} times the last." if last > 0 else ".")]  # fmt: skip
    shares = [(max(one.branches), one.name) for one in found if one.branches]
    if shares:
        mean = np.mean([s for one in found for s in one.branches])
        most, where = max(shares)
        norms = "(its norm over that of the sum)"
        said.append(
            f"A residual branch is {mean:.2f} of what leaves it in the mean {norms}; most in {where}, {most:.2f}."
        )
    return said
