"""Surveys all images of a data set: sizes, damage, duplicates, class balance, mean and deviation of the channels."""

import contextlib
import hashlib
import os
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations, product
from typing import NamedTuple

import numpy as np

from vitrail.data.dataset import Dataset, Split, SubsetReader
from vitrail.data.decode import NAMELESS, count_levels, highest_value, read_bytes, read_header
from vitrail.data.files import FileReader
from vitrail.errors import BadImage

BLOCK = 2048  # images that the threads get at a time
SLENDER = 10.0  # longer side over shorter side
TINY = 8  # pixels of the shorter side
SHOWN = 20  # files that are listed by name
LARGE = 16_000_000  # pixels of an image that is decoded alone: several at once could need more memory than there is
CHUNK = 2**17  # values that are summed up at a time
ROWS = 256  # rows of which float32 sums the squares of one column exactly: 256 times 255 squared is below 2**24


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


@dataclass(frozen=True)
class Survey:
    """Results of the survey. Images that cannot be decoded are in `images` and `corrupt` only."""

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
    content: str  # SHA-256 over the names, labels and contents of all images

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


class _ImageFacts(NamedTuple):
    """Facts on one image. Statistics are of its channels, values in [0, 1]."""

    digest: bytes
    size: tuple[int, int] = (0, 0)
    channels: int = 0
    bits: int = 0
    frames: int = 1
    peak: float | None = None
    mean: np.ndarray | None = None
    square: np.ndarray | None = None
    reason: str = ""


def survey_images(dataset: Dataset, progress: Callable[[int, int], None] | None = None, threads: int = 0) -> Survey:
    """Reads every image of every split. progress: called with (images done, total). threads: 0 is one a core, at most
    16.

    An image that cannot be decoded is recorded, never an error.
    """
    facts: dict[str, list[_ImageFacts]] = {name: [] for name in dataset.splits}
    statistics: dict[str, list[np.ndarray]] = {name: [] for name in dataset.splits}
    total, count, alone = sum(map(len, dataset.splits.values())), 0, threading.Lock()
    with ThreadPoolExecutor(threads or min(16, os.cpu_count() or 1)) as pool:
        for name, split in dataset.splits.items():
            for block in _blocks(split, pool, dataset.channels, alone):
                statistics[name].append(
                    np.array([(x.mean, x.square) for x in block if not x.reason]).reshape(-1, 2, dataset.channels)
                )
                # two arrays an image would be too much memory for millions
                facts[name] += [x._replace(mean=None, square=None) for x in block]
                count += len(block)
                if progress:
                    progress(count, total)
    return _summary(dataset, facts, {name: np.concatenate(blocks) for name, blocks in statistics.items() if blocks})


def _blocks(
    split: Split, pool: ThreadPoolExecutor, channels: int, alone: threading.Lock
) -> Iterator[list[_ImageFacts]]:
    array = split.array
    for start in range(0, len(split), BLOCK):
        stop = min(start + BLOCK, len(split))
        if array is not None:
            yield _inspect_array(array[start:stop])
        else:
            yield list(pool.map(lambda i: _inspect(split, i, channels, alone), range(start, stop)))


def _inspect_array(array: np.ndarray) -> list[_ImageFacts]:
    """[N H W C] at once."""
    count, height, width, channels = array.shape
    means, squares = _mean_and_square(array)
    rows = [
        (hashlib.sha256(np.ascontiguousarray(array[i]).data).digest(), (height, width), channels, 8, 1)
        for i in range(count)
    ]
    return [_ImageFacts(*facts, mean=m, square=s) for facts, m, s in zip(rows, means, squares, strict=True)]


def _mean_and_square(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and mean squares [N C] of images [N H W C], values in [0, 1]; sums are exact."""
    count, height, width, channels = array.shape
    sums = np.zeros((2, count, channels))
    columns = max(1, min(width, CHUNK // channels))
    rows = max(1, min(height, ROWS, CHUNK // (columns * channels)))
    step = max(1, CHUNK // (rows * columns * channels))
    for n, left in product(range(0, count, step), range(0, width, columns)):
        block = array[n : n + step, :, left : left + columns]
        each = np.zeros((2, len(block), block.shape[2] * channels))
        for top in range(0, height, rows):
            part = block[:, top : top + rows].astype(np.float32).reshape(len(block), -1, each.shape[2])
            each[0] += part.sum(1)
            each[1] += np.einsum("nrc,nrc->nc", part, part)
        sums[:, n : n + step] += each.reshape(2, len(block), -1, channels).sum(2)
    return sums[0] / (height * width * 255), sums[1] / (height * width * 255**2)


def _mean_and_square_of_levels(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Likewise [C] from how often each level is in each channel, int64 [C 256]."""
    levels, pixels = np.arange(256), counts[0].sum()
    return counts @ levels / (pixels * 255), counts @ levels**2 / (pixels * 255**2)


def _inspect(split: Split, index: int, channels: int, alone: threading.Lock) -> _ImageFacts:
    """One image by its reader. A file is read once: header, pixels and hash are of the same bytes."""
    read, at = split.read, index
    while isinstance(read, SubsetReader):
        at, read = int(read.indices[at]), read.read
    if not isinstance(read, FileReader):
        try:
            return _inspect_array(read(at)[None])[0]
        except BadImage as error:
            return _ImageFacts(b"", reason=error.what.removeprefix(f"{split.names[index]} "))
    try:
        data = read_bytes(read.root / read.names[at])
    except BadImage as error:
        return _ImageFacts(b"", reason=error.what)
    except (OSError, ValueError) as error:
        text = error.strerror if isinstance(error, OSError) else None
        return _ImageFacts(b"", reason=f"cannot be read: {(text or str(error)).lower()}")
    digest = hashlib.sha256(data).digest()
    try:
        header = read_header(data)
        with alone if header.size[0] * header.size[1] > LARGE else contextlib.nullcontext():
            mean, square = _mean_and_square_of_levels(count_levels(data, channels))
            peak = highest_value(data) if header.bits > 8 else None
    except BadImage as error:
        return _ImageFacts(digest, reason=error.what.removeprefix(f"{NAMELESS} "))
    return _ImageFacts(digest, header.size, header.channels, header.bits, header.frames, peak, mean, square)


def _summary(dataset: Dataset, facts: dict[str, list[_ImageFacts]], statistics: dict[str, np.ndarray]) -> Survey:
    every = [
        (ImageReference(part, i, str(split.names[i])), fact)
        for part, split in dataset.splits.items()
        for i, fact in enumerate(facts[part])
    ]
    readable = [(where, fact) for where, fact in every if not fact.reason]
    copies = _copies(every)
    labelled = {} if dataset.is_annotated else dataset.splits
    unread = {part: [i for i, fact in enumerate(own) if fact.reason] for part, own in facts.items()}
    counts = {
        part: _counts(np.delete(split.labels, unread[part], axis=0), len(dataset.classes))
        for part, split in labelled.items()
    }
    train_counts = counts.get("train", next(iter(counts.values()), (1,)))
    mean, std = _statistics(
        statistics.get("train", next(iter(statistics.values()), np.empty((0, 2, dataset.channels))))
    )
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
        content=_content(dataset, every),
    )


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


def _copies(every: list[tuple[ImageReference, _ImageFacts]]) -> tuple[tuple[ImageReference, ...], ...]:
    """Groups of equal content, without damaged files: two empty files are no copies."""
    groups = defaultdict(list)
    for where, fact in every:
        if not fact.reason:
            groups[fact.digest].append(where)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def _statistics(statistics: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation from means and mean squares [N 2 C]: exact where all images have one size."""
    mean, square = statistics.mean(0) if len(statistics) else np.zeros(statistics.shape[1:])
    return tuple(mean.tolist()), tuple(np.sqrt(np.maximum(square - mean**2, 0)).tolist())


def _content(dataset: Dataset, every: list[tuple[ImageReference, _ImageFacts]]) -> str:
    whole = hashlib.sha256()
    labels = {part: split.labels for part, split in dataset.splits.items()}
    for name, digest, label in sorted((w.name, fact.digest, labels[w.split][w.number].tobytes()) for w, fact in every):
        whole.update(name.encode(errors="surrogateescape") + b"\0" + digest + label)
    for part in sorted(dataset.splits) if dataset.is_annotated else ():
        for index in range(len(dataset.splits[part])):
            whole.update(dataset.splits[part].annotation_bytes(index))
    return whole.hexdigest()
