"""Advice on what a survey of images found."""

import math

from vitrail.data.survey.images import SLENDER, TINY, Survey
from vitrail.errors import many

FEW = 20  # training images of a class
UNEVEN = 10.0  # images of the largest class over those of the smallest
DARK = 0.25  # highest value of images of more than 8 bits, as a fraction of their range, up to which they are dark


def advise(survey: Survey, has_weights: bool = False) -> list[str]:
    """A sentence for each finding, the gravest first; empty where there are none. On unreadable images: `assess`.
    has_weights: whether the training starts from weights."""
    sentences = []
    train = survey.counts.get("train", ())
    if survey.conflicts:
        sentences.append(
            f"equal but labelled differently: {many(len(survey.conflicts), 'group')} of images; keep one label of each"
        )
    for (a, b), n in survey.shared.items():
        sentences.append(
            f"both in {a} and in {b}: {many(n, 'image')} of {b}, which inflates the metrics of {b}; "
            "remove them from one of the two"
        )
    for split, n in survey.repeated.items():
        sentences.append(f"twice in {split}: {many(n, 'image')}; remove the copies, they count double")
    if sum(n > 0 for n in train) == 1:
        sentences.append("all training images are of one class: there is nothing to learn from them")
    elif 0 in train:
        sentences.append(
            f"without training images: {many(train.count(0), 'class', 'classes')}; add images, or drop the classes"
        )
    elif survey.imbalance > UNEVEN:
        sentences.append(
            f"the largest class has {survey.imbalance:.0f} times the images of the smallest: "
            "evaluate by the mean accuracy of the classes"
        )
    if few := sum(0 < n < FEW for n in train):
        remedy = "add images" if has_weights else "start from pre-trained weights, or add images"
        sentences.append(f"fewer than {FEW} training images: {many(few, 'class', 'classes')}; {remedy}")
    if survey.peak is not None:
        sentences += advise_on_range(survey.peak)
    if survey.slender:
        sentences.append(
            f"one side more than {SLENDER:.0f} times the other: {many(len(survey.slender), 'image')}; check or crop"
        )
    if survey.tiny:
        sentences.append(f"a side under {TINY} pixels: {many(len(survey.tiny), 'image')}; check them")
    if survey.animated:
        sentences.append(f"several frames: {many(survey.animated, 'file')}; only the first frame is used")
    return sentences


def advise_on_range(peak: float) -> list[str]:
    """A sentence on images of more than 8 bits that are dark. peak: their highest value, as a fraction of the range
    that is read as 0 to 255.

    >>> advise_on_range(4095 / 65535)[0][:80]
    'images of more than 8 bits use 6.2% of their range (values up to 4,095 of 65,535'
    """
    if not 0 < peak <= DARK:
        return []
    levels, factor = round(255 * peak) + 1, 2 ** math.floor(math.log2(1 / peak))
    return [
        f"images of more than 8 bits use {peak:.1%} of their range (values up to {round(peak * 65535):,} of 65,535, as "
        f"of {16 - round(math.log2(factor))} bits in 16): {levels} grey levels of 256 are left; multiply their values "
        f"by {factor} and save them again"
    ]
