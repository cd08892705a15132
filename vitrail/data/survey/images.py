"""Surveys the images of a data set, all or a sample: sizes, damage, duplicates, class balance, mean and deviation of
the channels."""

import hashlib
import os
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np

from vitrail.data.dataset import Dataset, Split
from vitrail.data.survey.one_image import ImageFacts, inspect_array, inspect_image
from vitrail.data.survey.sample import choose_sample

BLOCK = 2048  # images that the threads get at a time
SLENDER = 10.0  # longer side over shorter side
TINY = 8  # pixels of the shorter side
SHOWN = 20  # files that are listed by name


class ImageReference(NamedTuple):
    """One image: image `number` of a split, by its name."""

    split: str
    number: int
    name: str


class UnreadableImage(NamedTuple):
    """One image that cannot be decoded, and why."""

    split: str
    number: int
    name: str
    reason: str


class Sizes(NamedTuple):
    """In pixels, each (smallest, median, largest); distinct: number of different (height, width)."""

    height: tuple[int, int, int]
    width: tuple[int, int, int]
    distinct: int


class SampleFacts(NamedTuple):
    """Sizes, mean and deviation as in `Survey`, of the images that `choose_sample` chooses: the same whether these or
    all were read. images: of train among them."""

    sizes: Sizes
    mean: tuple[float, ...]
    std: tuple[float, ...]
    images: int


@dataclass(frozen=True)
class Survey:
    """Results of the survey. Images that cannot be decoded are in `images` and `corrupt` only. Beside `counts` and
    `images` all is of the images that were read."""

    counts: dict[str, tuple[int, ...]]  # images of each class, by split; multi-label images count in each; or {}
    images: dict[str, int]  # by split
    sizes: Sizes
    channels: dict[int, int]  # channels as stored -> images
    bits: dict[int, int]  # bits of a channel as stored -> images
    peak: float | None  # highest value of all images of more than 8 bits, as a fraction of the range read as 0 to 255
    animated: int  # files of more than one image
    corrupt: tuple[UnreadableImage, ...]
    copies: tuple[tuple[ImageReference, ...], ...]  # groups of images with the same content
    conflicts: tuple[tuple[ImageReference, ...], ...]  # groups whose labels differ
    slender: tuple[ImageReference, ...]
    tiny: tuple[ImageReference, ...]
    imbalance: float  # images of the largest class over those of the smallest, in train; infinite where one has none
    mean: tuple[float, ...]  # of each channel over train, in [0, 1]; every file has the same weight
    std: tuple[float, ...]
    content: str  # SHA-256 over the names, labels and contents of all images; "" where only a sample was read
    sample: SampleFacts  # what defaults depend on, of the sample that every start looks at
    read: int  # images that were read

    @property
    def is_whole(self) -> bool:
        """Whether every image was read."""
        return self.read == sum(self.images.values())

    @property
    def repeated(self) -> dict[str, int]:
        """Redundant images by split: copies of another in the same split."""
        extra: Counter[str] = Counter()
        for group in self.copies:
            extra.update({split: n - 1 for split, n in Counter(w.split for w in group).items() if n > 1})
        return dict(extra)

    @property
    def shared(self) -> dict[tuple[str, str], int]:
        """Number of images of the second split that are in the first too, such as ("train", "val")."""
        pairs: Counter[tuple[str, str]] = Counter()
        for group in self.copies:
            have = Counter(w.split for w in group)
            pairs.update({(a, b): have[b] for a, b in combinations(self.images, 2) if have[a] and have[b]})
        return dict(pairs)


def survey_images(
    dataset: Dataset, progress: Callable[[int, int], None] | None = None, threads: int = 0, whole: bool = True
) -> Survey:
    """Reads every image of every split, or those of the sample alone. progress: called with (images done, total).
    threads: 0 is one a core, at most 16.

    An image that cannot be decoded is recorded, never an error.
    """
    sample = choose_sample(dataset)
    chosen = {name: np.arange(len(split)) for name, split in dataset.splits.items()} if whole else sample
    facts: dict[str, list[ImageFacts]] = {name: [] for name in dataset.splits}
    statistics = {name: np.full((len(own), 2, dataset.channels), np.nan) for name, own in chosen.items()}
    total, count, alone = sum(map(len, chosen.values())), 0, threading.Lock()
    with ThreadPoolExecutor(threads or min(16, os.cpu_count() or 1)) as pool:
        for name, split in dataset.splits.items():
            for block in _blocks(split, chosen[name], pool, dataset.channels, alone):
                for i, x in enumerate(block, len(facts[name])):
                    statistics[name][i] = np.nan if x.reason else (x.mean, x.square)
                # two arrays an image would be too much memory for millions
                facts[name] += [x._replace(mean=None, square=None) for x in block]
                count += len(block)
                if progress:
                    progress(count, total)
    return _summary(dataset, chosen, facts, statistics, sample)


def _blocks(
    split: Split, indices: np.ndarray, pool: ThreadPoolExecutor, channels: int, alone: threading.Lock
) -> Iterator[list[ImageFacts]]:
    array = split.array
    for start in range(0, len(indices), BLOCK):
        block = indices[start : start + BLOCK]
        if array is not None:  # images in memory are all read
            yield inspect_array(array[start : start + BLOCK])
        else:
            yield list(pool.map(lambda i: inspect_image(split, i, channels, alone), block.tolist()))


def _summary(
    dataset: Dataset,
    chosen: dict[str, np.ndarray],
    facts: dict[str, list[ImageFacts]],
    statistics: dict[str, np.ndarray],
    sample: dict[str, np.ndarray],
) -> Survey:
    every = [
        (ImageReference(part, i, str(split.names[i])), fact)
        for part, split in dataset.splits.items()
        for i, fact in zip(chosen[part].tolist(), facts[part], strict=True)
    ]
    readable = [(where, fact) for where, fact in every if not fact.reason]
    copies = _copies(every)
    labelled = dataset.splits if dataset.classes and not dataset.is_annotated else {}
    unread = {part: [i for i, x in zip(chosen[part], own, strict=True) if x.reason] for part, own in facts.items()}
    counts = {
        part: _counts(np.delete(split.labels, unread[part], axis=0), len(dataset.classes))
        for part, split in labelled.items()
    }
    train_counts = counts.get("train", next(iter(counts.values()), (1,)))
    main = "train" if "train" in facts else next(iter(facts), "")
    mean, std = _statistics(statistics.get(main, np.empty((0, 2, dataset.channels))))
    is_whole = all(len(chosen[part]) == len(split) for part, split in dataset.splits.items())
    return Survey(
        counts=counts,
        images={part: len(split) for part, split in dataset.splits.items()},
        sizes=_sizes([fact.size for _, fact in readable]),
        channels=dict(sorted(Counter(fact.channels for _, fact in readable).items())),
        bits=dict(sorted(Counter(fact.bits for _, fact in readable).items())),
        peak=max((fact.peak for _, fact in readable if fact.peak is not None), default=None),
        animated=sum(fact.frames > 1 for _, fact in readable),
        corrupt=tuple(UnreadableImage(*where, fact.reason) for where, fact in every if fact.reason),
        copies=copies,
        conflicts=tuple(g for g in copies if len({dataset.splits[w.split].labels[w.number].tobytes() for w in g}) > 1),
        slender=tuple(where for where, fact in readable if max(fact.size) > SLENDER * min(fact.size)),
        tiny=tuple(where for where, fact in readable if min(fact.size) < TINY),
        imbalance=max(train_counts) / min(train_counts) if min(train_counts) else float("inf"),
        mean=mean,
        std=std,
        content=_content(dataset, every) if is_whole else "",
        sample=_sample_facts(chosen, facts, statistics, sample, main),
        read=len(every),
    )


def _sample_facts(
    chosen: dict[str, np.ndarray],
    facts: dict[str, list[ImageFacts]],
    statistics: dict[str, np.ndarray],
    sample: dict[str, np.ndarray],
    main: str,
) -> SampleFacts:
    at = {part: np.flatnonzero(np.isin(chosen[part], own, assume_unique=True)) for part, own in sample.items()}
    sizes = _sizes([facts[part][i].size for part, own in at.items() for i in own if not facts[part][i].reason])
    if not main:
        return SampleFacts(sizes, (), (), 0)
    return SampleFacts(sizes, *_statistics(statistics[main][at[main]]), len(at[main]))


def _counts(labels: np.ndarray, classes: int) -> tuple[int, ...]:
    counts = labels.sum(0, dtype=np.int64) if labels.ndim == 2 else np.bincount(labels, minlength=classes)
    return tuple(int(n) for n in counts)


def _sizes(sizes: list[tuple[int, int]]) -> Sizes:
    if not sizes:
        return Sizes((0, 0, 0), (0, 0, 0), 0)
    each = np.array(sizes)
    low, middle, high = each.min(0), np.median(each, axis=0), each.max(0)
    height, width = ((int(low[i]), int(middle[i]), int(high[i])) for i in (0, 1))
    return Sizes(height, width, len(set(sizes)))


def _copies(every: list[tuple[ImageReference, ImageFacts]]) -> tuple[tuple[ImageReference, ...], ...]:
    """Groups of equal content, without damaged files: two empty files are no copies."""
    groups = defaultdict(list)
    for where, fact in every:
        if not fact.reason:
            groups[fact.digest].append(where)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def _statistics(statistics: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation from means and mean squares [N 2 C], NaN for images that cannot be read: exact where
    all images have one size."""
    measured = statistics[~np.isnan(statistics[:, 0, 0])]
    mean, square = measured.mean(0) if len(measured) else np.zeros(statistics.shape[1:])
    return tuple(mean.tolist()), tuple(np.sqrt(np.maximum(square - mean**2, 0)).tolist())


def _content(dataset: Dataset, every: list[tuple[ImageReference, ImageFacts]]) -> str:
    whole = hashlib.sha256()
    labels = {part: split.labels for part, split in dataset.splits.items()}
    for name, digest, label in sorted((w.name, fact.digest, labels[w.split][w.number].tobytes()) for w, fact in every):
        whole.update(name.encode(errors="surrogateescape") + b"\0" + digest + label)
    for part in sorted(dataset.splits) if dataset.is_annotated else ():
        for index in range(len(dataset.splits[part])):
            whole.update(dataset.splits[part].annotation_bytes(index))
    return whole.hexdigest()
