"""What the numbers of the study say, in plain sentences. Every sentence is chosen by the numbers; none is there whatever they are."""

from collections.abc import Mapping, Sequence

import numpy as np

Values = Mapping[str, Sequence[float]]  # one number a seed, by model

UNKNOWN = 0.025  # the spread that is assumed where there is one seed alone
CLEAR = 2.0  # spreads from which a difference is one


def mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def spread(values: Sequence[float]) -> float:
    """The standard deviation over the seeds."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else UNKNOWN


def apart(a: Sequence[float], b: Sequence[float]) -> int:
    """1 where a is clearly more than b, -1 where it is clearly less, 0 where the seeds do not tell them apart."""
    difference = mean(a) - mean(b)
    if abs(difference) <= CLEAR * max(spread(a), spread(b)):
        return 0
    return 1 if difference > 0 else -1


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def ranked(values: Values) -> list[str]:
    """Models, that with most first."""
    return sorted(values, key=lambda name: -mean(values[name]))


def verdict(more: str, less: str, values: Values) -> str:
    """How a claim that `more` has more than `less` fares."""
    found = apart(values[more], values[less])
    told = f"{more} {percent(mean(values[more]))}, {less} {percent(mean(values[less]))}"
    if found == 0:
        return f"Here the seeds do not tell them apart ({told})."
    return f"{'So it is here' if found > 0 else 'Here it is the other way round'} ({told})."


def order(values: Values) -> str:
    """All models, best first, and whether the first place is a clear one."""
    names = ranked(values)
    listed = ", ".join(f"{name} {percent(mean(values[name]))}" for name in names)
    if len(names) == 1:
        return listed
    tied = [name for name in names[1:] if apart(values[names[0]], values[name]) == 0]
    return listed + (
        f"; the seeds do not tell {names[0]} from {' and '.join(tied)}" if tied else f"; {names[0]} is clearly first"
    )


def hunger(accuracy: Mapping[float, Values]) -> list[str]:
    """accuracy: by share of the training images."""
    few, all_ = min(accuracy), max(accuracy)
    if few == all_:
        return [f"With {few:.0%} of the images: {order(accuracy[few])}."]
    said = [f"With {share:.0%} of the images: {order(accuracy[share])}." for share in (few, all_)]
    gaps = [
        [a - b for a, b in zip(accuracy[share]["ResNet"], accuracy[share]["ViT"], strict=True)] for share in (few, all_)
    ]
    book = "The textbook says that a ViT needs more images than a convolutional network: it should be far behind with few, and catch up."
    ends = (
        f"the ViT is {points(mean(gaps[0]))} the ResNet with {few:.0%} and {points(mean(gaps[1]))} it with {all_:.0%}"
    )
    change = apart(gaps[0], gaps[1])
    how = {
        1: "the gap closes, as it says",
        0: "the gap does not change clearly",
        -1: "the gap widens, against the textbook",
    }[change]
    said.append(f"{book} Here {ends}: {how}.")
    gained = {name: mean(accuracy[all_][name]) - mean(accuracy[few][name]) for name in accuracy[few]}
    most = max(gained, key=lambda name: gained[name])
    least = min(gained, key=lambda name: gained[name])
    still = [name for name in accuracy[few] if apart(accuracy[all_][name], accuracy[few][name]) == 0]
    if still:
        said.append(
            f"With these steps the seeds show no gain from {all_ / few:g} times the images for: {', '.join(still)}."
        )
    said.append(
        f"The more images bring {most} most ({100 * gained[most]:+.1f} points) and {least} least ({100 * gained[least]:+.1f})."
    )
    return said


def points(gap: float) -> str:
    """A gap by which the ViT is behind, in words."""
    return f"{100 * abs(gap):.1f} points {'behind' if gap >= 0 else 'ahead of'}"


def shift(same: Mapping[float, Values]) -> list[str]:
    """same: by pixels, the share of answers that a shift leaves as they were."""
    middle = sorted(same)[len(same) // 2]
    said = [f"Shifted by {middle:g} pixels, answers stay the same for: {order(same[middle])}."]
    ways = {pixels: apart(values["ResNet"], values["ViT"]) for pixels, values in sorted(same.items())}
    groups = {1: "so it is at", -1: "it is the other way round at", 0: "they are not told apart at"}
    told = [
        f"{what} {joined([f'{p:g}' for p, w in ways.items() if w == way])}"
        for way, what in groups.items()
        if way in ways.values()
    ]
    book = "Convolutions are said not to mind where a thing is, and patches to mind: a ResNet should keep more of its answers."
    return [*said, f"{book} Here, in pixels, {'; '.join(told)}."]


def joined(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)


def kept(clean: Values, disturbed: Values, chance: float) -> Values:
    """What is left of what a model can above guessing: 1 all of it, 0 nothing. A model that only guesses has nothing to lose: 0."""
    return {name: [max(0.0, d - chance) / (c - chance) if c > chance else 0.0 for c, d in zip(clean[name], disturbed[name], strict=True)]
            for name in clean}  # fmt: skip


def disturbed(left: Mapping[str, Values]) -> list[str]:
    """left: by what is done, the share of what it could that is left to each model, over all levels."""
    return [
        f"{kind.capitalize()}, what is left of what was known above guessing: {order(values)}."
        for kind, values in left.items()
    ]


def texture(left: Values) -> list[str]:
    """left: after shuffling patches."""
    book = "Convolutional networks are said to go by texture, which shuffled patches keep, and ViTs more by shape, which they lose."
    return [f"{book} {verdict('ResNet', 'ViT', left)}"]


def noise(left: Values) -> list[str]:
    book = "Attention is said to smooth, so that a ViT should mind noise less than a ResNet."
    return [f"{book} {verdict('ViT', 'ResNet', left)}"]


def frequencies(low: Values, high: Values) -> list[str]:
    """What is left with low frequencies only, and with high ones only."""
    ways = {name: apart(low[name], high[name]) for name in low}
    groups = {1: "live from the low frequencies", -1: "live from the high ones", 0: "do not clearly prefer either"}
    told = [
        f"{', '.join(n for n, w in ways.items() if w == way)} {what}"
        for way, what in groups.items()
        if way in ways.values()
    ]
    return [f"Cut to low or to high frequencies: {'; '.join(told)}."]


def compute(accuracy: Values, macs: Mapping[str, float]) -> list[str]:
    """macs: multiply-adds an image, in millions."""
    best, cheap = ranked(accuracy)[0], min(macs, key=lambda name: macs[name])
    listed = ", ".join(
        f"{name} {percent(mean(accuracy[name]))} for {macs[name]:.1f} M" for name in sorted(macs, key=lambda n: macs[n])
    )
    said = f"Accuracy and multiply-adds an image: {listed}."
    if best == cheap or apart(accuracy[best], accuracy[cheap]) == 0:
        return [f"{said} None is clearly more accurate than the cheapest, {cheap}."]
    return [
        f"{said} {best} is the most accurate and costs {macs[best] / macs[cheap]:.1f} times as much as {cheap}, the cheapest."
    ]


def fields(radii: Mapping[str, Sequence[Sequence[float]]], even: float) -> list[str]:
    """radii: of every block, in pixels, for each seed. even: of a field that is the same everywhere."""
    first = {name: [one[0] for one in each] for name, each in radii.items()}
    last = {name: [one[-1] for one in each] for name, each in radii.items()}
    listed = ", ".join(f"{name} {mean(first[name]):.1f} and {mean(last[name]):.1f}" for name in radii)
    said = [
        f"Radius in pixels in the first and the last block ({even:.1f} is that of the whole image seen evenly): {listed}."
    ]
    book = "A ViT is said to see the whole image from its first block on, and a ResNet to widen from block to block."
    wide = apart([r / even for r in first["ViT"]], [r / even for r in first["ResNet"]])
    grown = {name: mean(last[name]) / max(mean(first[name]), 1e-9) for name in ("ViT", "ResNet")}
    start = {1: "So it is in the first block", 0: "In the first block they are not told apart here",
             -1: "In the first block it is the other way round here"}[wide]  # fmt: skip
    rest = f"from the first block to the last the ViT's radius grows {grown['ViT']:.1f} times and the ResNet's {grown['ResNet']:.1f} times"
    return [*said, f"{book} {start}; {rest}."]
