"""What a survey finds out about captions: how many, how long, how many are the same."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vitrail.data.annotations.captions import normalize_caption
from vitrail.data.dataset import Dataset

LONG = 400  # characters; the 77 tokens of CLIP's text tower are about 350 characters of English
LISTED = 3  # captions on several images that are listed, the most frequent first


class CaptionFacts(NamedTuple):
    """One caption: its length in characters, and a hash of what it says, whatever its case."""

    length: int
    digest: int


class CaptionSurvey(NamedTuple):
    """The captions of a data set. Repeated ones are counted by the images that have them, whatever their case."""

    counts: dict[str, int]  # captions by split
    per_image: tuple[int, int]  # fewest and most of an image
    lengths: tuple[int, int, int]  # characters: smallest, median, largest
    distinct: int  # different captions of all splits
    shared: int  # images that have no caption of their own: each of theirs is on another image too
    frequent: tuple[tuple[str, int], ...]  # captions on several images, with how many; the most frequent first
    images: int  # images with captions


def inspect_caption(text: str) -> CaptionFacts:
    """The facts on a caption."""
    digest = hashlib.blake2b(normalize_caption(text).encode(), digest_size=8).digest()
    return CaptionFacts(len(text), int.from_bytes(digest, "little"))


def summarise_captions(dataset: Dataset, every: Sequence[tuple[str, int, tuple[CaptionFacts, ...]]]) -> CaptionSurvey:
    """The survey of the captions of (split, image, facts)."""
    captioned = [one for one in every if one[2]]
    images = Counter(digest for _, _, facts in captioned for digest in {fact.digest for fact in facts})
    counts: dict[str, int] = defaultdict(int, dict.fromkeys(dataset.splits, 0))
    for part, _, facts in captioned:
        counts[part] += len(facts)
    frequent = {digest: n for digest, n in images.most_common(LISTED) if n > 1}
    lengths = np.array([fact.length for _, _, facts in captioned for fact in facts] or [0])
    own = [len(facts) for _, _, facts in captioned] or [0]
    return CaptionSurvey(
        dict(counts),
        (min(own), max(own)),
        (int(lengths.min()), int(np.median(lengths)), int(lengths.max())),
        len(images),
        sum(all(images[fact.digest] > 1 for fact in facts) for _, _, facts in captioned),
        tuple((find_text(dataset, captioned, digest), n) for digest, n in frequent.items()),
        len(captioned),
    )


def find_text(dataset: Dataset, every: Sequence[tuple[str, int, tuple[CaptionFacts, ...]]], digest: int) -> str:
    """The first caption of a digest."""
    part, number, facts = next(one for one in every if any(fact.digest == digest for fact in one[2]))
    read = dataset.splits[part].annotation
    assert read is not None
    return str(read(number)[[fact.digest for fact in facts].index(digest)])
