"""The results of the study in sentences, each chosen by the numbers."""

from collections.abc import Mapping, Sequence

import numpy as np

Values = Mapping[str, Sequence[float]]  # one number a seed, by model

UNKNOWN = 0.025  # the standard deviation assumed for a single seed
CLEAR = 2.0  # standard deviations from which a difference counts


def mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def spread(values: Sequence[float]) -> float:
    """The standard deviation over the seeds."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else UNKNOWN


def apart(a: Sequence[float], b: Sequence[float]) -> int:
    """1 if a is clearly more than b, -1 if clearly less, 0 if the difference is within the spread of the seeds."""
    difference = mean(a) - mean(b)
    if abs(difference) <= CLEAR * max(spread(a), spread(b)):
        return 0
    return 1 if difference > 0 else -1


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def ranked(values: Values) -> list[str]:
    """Models in descending order."""
    return sorted(values, key=lambda name: -mean(values[name]))


def verdict(more: str, less: str, values: Values) -> str:
    """Whether the numbers confirm that `more` has more than `less`."""
    sign = apart(values[more], values[less])
    accuracies = f"{more} {percent(mean(values[more]))}, {less} {percent(mean(values[less]))}"
    if sign == 0:
        return f"Here the difference is within the spread of the seeds ({accuracies})."
    return f"{'Confirmed here' if sign > 0 else 'Here it is the other way round'} ({accuracies})."


def order(values: Values) -> str:
    """All models, best first, and whether the first is clearly better."""
    names = ranked(values)
    listed = ", ".join(f"{name} {percent(mean(values[name]))}" for name in names)
    if len(names) == 1:
        return listed
    tied = [name for name in names[1:] if apart(values[names[0]], values[name]) == 0]
    return listed + (
        f"; no clear difference between {names[0]} and {' and '.join(tied)}"
        if tied
        else f"; {names[0]} is clearly first"
    )


def efficiency(accuracy: Mapping[float, Values]) -> list[str]:
    """accuracy: by fraction of the training images."""
    few, all_ = min(accuracy), max(accuracy)
    if few == all_:
        return [f"With {few:.0%} of the images: {order(accuracy[few])}."]
    sentences = [f"With {share:.0%} of the images: {order(accuracy[share])}." for share in (few, all_)]
    gaps = [
        [a - b for a, b in zip(accuracy[share]["ResNet"], accuracy[share]["ViT"], strict=True)] for share in (few, all_)
    ]
    claim = (
        "By the textbook a ViT needs more images than a convolutional network: it should be far behind with few "
        "images, and catch up."
    )
    ends = (
        f"the ViT is {points(mean(gaps[0]))} the ResNet with {few:.0%} and {points(mean(gaps[1]))} it with {all_:.0%}"
    )
    change = apart(gaps[0], gaps[1])
    how = {
        1: "the gap closes, as expected",
        0: "the gap does not change clearly",
        -1: "the gap widens, against the textbook",
    }[change]
    sentences.append(f"{claim} Here {ends}: {how}.")
    gain = {name: mean(accuracy[all_][name]) - mean(accuracy[few][name]) for name in accuracy[few]}
    most = max(gain, key=lambda name: gain[name])
    least = min(gain, key=lambda name: gain[name])
    still = [name for name in accuracy[few] if apart(accuracy[all_][name], accuracy[few][name]) == 0]
    if still:
        sentences.append(
            f"With these steps there is no clear gain from {all_ / few:g} times the images for: {', '.join(still)}."
        )
    sentences.append(
        f"More images help {most} most ({100 * gain[most]:+.1f} points) and {least} least ({100 * gain[least]:+.1f})."
    )
    return sentences


def points(gap: float) -> str:
    """A gap by which the ViT is behind, in words."""
    return f"{100 * abs(gap):.1f} points {'behind' if gap >= 0 else 'ahead of'}"


def shift(same: Mapping[float, Values]) -> list[str]:
    """same: by pixels, the fraction of predictions that a shift does not change."""
    middle = sorted(same)[len(same) // 2]
    sentences = [f"Shifted by {middle:g} pixels, predictions stay the same for: {order(same[middle])}."]
    ways = {pixels: apart(values["ResNet"], values["ViT"]) for pixels, values in sorted(same.items())}
    groups = {1: "confirmed at", -1: "the other way round at", 0: "no clear difference at"}
    findings = [
        f"{what} {joined([f'{p:g}' for p, w in ways.items() if w == way])}"
        for way, what in groups.items()
        if way in ways.values()
    ]
    claim = (
        "Convolutions are expected to be more invariant to shifts than patches: a ResNet should keep more of its "
        "predictions."
    )
    return [*sentences, f"{claim} Here, in pixels, {'; '.join(findings)}."]


def joined(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)


def retained_accuracy(clean: Values, disturbed: Values, chance: float) -> Values:
    """The fraction of the accuracy above chance that is retained: 1 all, 0 none; 0 also for a model at chance level."""
    return {
        name: [
            max(0.0, d - chance) / (c - chance) if c > chance else 0.0
            for c, d in zip(clean[name], disturbed[name], strict=True)
        ]
        for name in clean
    }


def disturbed(left: Mapping[str, Values]) -> list[str]:
    """left: by corruption, the retained accuracy above chance of each model, over all levels."""
    return [f"{kind.capitalize()}, retained accuracy above chance: {order(values)}." for kind, values in left.items()]


def texture(left: Values) -> list[str]:
    """left: after shuffling patches."""
    claim = (
        "Convolutional networks are expected to rely on texture, which shuffled patches keep, and ViTs more on shape, "
        "which they lose."
    )
    return [f"{claim} {verdict('ResNet', 'ViT', left)}"]


def noise(left: Values) -> list[str]:
    claim = "Attention is expected to act as a low-pass filter: a ViT should be more robust to noise than a ResNet."
    return [f"{claim} {verdict('ViT', 'ResNet', left)}"]


def frequencies(low: Values, high: Values) -> list[str]:
    """Retained accuracy with low frequencies only, and with high ones only."""
    ways = {name: apart(low[name], high[name]) for name in low}
    groups = {1: "more with the low frequencies", -1: "more with the high ones", 0: "no clear difference"}
    findings = [
        f"{', '.join(n for n, w in ways.items() if w == way)}: {what}"
        for way, what in groups.items()
        if way in ways.values()
    ]
    return [f"Retained accuracy of low-pass against high-pass images: {'; '.join(findings)}."]


def compute(accuracy: Values, macs: Mapping[str, float]) -> list[str]:
    """macs: multiply-adds an image, in millions."""
    best, cheap = ranked(accuracy)[0], min(macs, key=lambda name: macs[name])
    listed = ", ".join(
        f"{name} {percent(mean(accuracy[name]))} for {macs[name]:.1f} M" for name in sorted(macs, key=lambda n: macs[n])
    )
    accuracies = f"Accuracy and multiply-adds an image: {listed}."
    if best == cheap or apart(accuracy[best], accuracy[cheap]) == 0:
        return [f"{accuracies} None is clearly more accurate than the cheapest, {cheap}."]
    return [
        f"{accuracies} {best} is the most accurate and costs {macs[best] / macs[cheap]:.1f} times as much as {cheap}, "
        "the cheapest."
    ]


def fields(radii: Mapping[str, Sequence[Sequence[float]]], even: float) -> list[str]:
    """radii: of every block, in pixels, for each seed. even: of a uniform field."""
    first = {name: [one[0] for one in each] for name, each in radii.items()}
    last = {name: [one[-1] for one in each] for name, each in radii.items()}
    listed = ", ".join(f"{name} {mean(first[name]):.1f} and {mean(last[name]):.1f}" for name in radii)
    sentences = [
        f"Radius in pixels in the first and the last block (a uniform field over the image has {even:.1f}): {listed}."
    ]
    claim = (
        "The field of a ViT is expected to span the image from the first block on, that of a ResNet to grow by block."
    )
    wide = apart([r / even for r in first["ViT"]], [r / even for r in first["ResNet"]])
    growth = {name: mean(last[name]) / max(mean(first[name]), 1e-9) for name in ("ViT", "ResNet")}
    start = {
        1: "Confirmed for the first block",
        0: "No clear difference in the first block here",
        -1: "In the first block it is the other way round here",
    }[wide]
    rest = (
        f"from the first block to the last the ViT's radius grows {growth['ViT']:.1f} times and the ResNet's "
        f"{growth['ResNet']:.1f} times"
    )
    return [*sentences, f"{claim} {start}; {rest}."]
