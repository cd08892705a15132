"""Reads every image of a data set once and tells what is there: sizes, damage, duplicates, balance, mean and spread of the colours."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np

from vitrail.data.dataset import Dataset, Split, SubsetReader
from vitrail.data.decode import NAMELESS, decode, read_header
from vitrail.data.files import FileReader
from vitrail.errors import BadImage

BLOCK = 2048  # images handed to the threads at a time
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
    """Pixels, each (smallest, median, largest); distinct: how many different (height, width) there are."""

    height: tuple[int, int, int]
    width: tuple[int, int, int]
    distinct: int


@dataclass(frozen=True)
class Survey:
    """What a look at every image found. Images that cannot be decoded are in `counts` and `corrupt`, and in nothing else."""

    counts: dict[
        str, tuple[int, ...]
    ]  # images of each class, by split; one of two classes counts twice; {} for masks and boxes
    images: dict[str, int]  # by split
    sizes: Sizes
    channels: dict[int, int]  # channels as stored -> images
    bits: dict[int, int]  # bits of a channel as stored -> images
    animated: int  # files of more than one image
    corrupt: tuple[UnreadableImage, ...]
    copies: tuple[tuple[ImageReference, ...], ...]  # groups of images with the same content
    conflicts: tuple[tuple[ImageReference, ...], ...]  # those of the groups whose labels differ
    slender: tuple[ImageReference, ...]
    tiny: tuple[ImageReference, ...]
    imbalance: float  # images of the largest class over those of the smallest, in train; infinite where one has none
    mean: tuple[float, ...]  # of each channel over train, in [0, 1]; files weigh the same whatever their size
    std: tuple[float, ...]
    content: str  # SHA-256 over the names, labels and contents of all images

    @property
    def repeated(self) -> dict[str, int]:
        """Images that could go without loss, by split: copies of another in the same split."""
        extra: Counter[str] = Counter()
        for group in self.copies:
            extra.update({split: n - 1 for split, n in Counter(w.split for w in group).items() if n > 1})
        return dict(extra)

    @property
    def shared(self) -> dict[tuple[str, str], int]:
        """How many images of the second split are in the first too, such as ("train", "val")."""
        found: Counter[tuple[str, str]] = Counter()
        for group in self.copies:
            have = Counter(w.split for w in group)
            found.update({(a, b): have[b] for a, b in combinations(self.images, 2) if have[a] and have[b]})
        return dict(found)


class _ImageFacts(NamedTuple):
    """What one image told. Statistics are of its channels, values in [0, 1]."""

    digest: bytes
    size: tuple[int, int] = (0, 0)
    channels: int = 0
    bits: int = 0
    frames: int = 1
    mean: np.ndarray | None = None
    square: np.ndarray | None = None
    reason: str = ""


def survey_images(dataset: Dataset, progress: Callable[[int, int], None] | None = None, threads: int = 0) -> Survey:
    """Reads every image of every split. progress: called with (images read, of how many). threads: 0 takes one a core, at most 16.

    An image that cannot be decoded is recorded, never an error.
    """
    looks: dict[str, list[_ImageFacts]] = {name: [] for name in dataset.splits}
    moments: dict[str, list[np.ndarray]] = {name: [] for name in dataset.splits}
    total, done = sum(map(len, dataset.splits.values())), 0
    with ThreadPoolExecutor(threads or min(16, os.cpu_count() or 1)) as pool:
        for name, split in dataset.splits.items():
            for block in _blocks(split, pool, dataset.channels):
                moments[name].append(
                    np.array([(x.mean, x.square) for x in block if not x.reason]).reshape(-1, 2, dataset.channels)
                )
                looks[name] += [
                    x._replace(mean=None, square=None) for x in block
                ]  # two arrays an image are too much to keep of millions
                done += len(block)
                if progress:
                    progress(done, total)
    return _summary(dataset, looks, {name: np.concatenate(blocks) for name, blocks in moments.items() if blocks})


def _blocks(split: Split, pool: ThreadPoolExecutor, channels: int) -> Iterator[list[_ImageFacts]]:
    array = split.array
    for start in range(0, len(split), BLOCK):
        stop = min(start + BLOCK, len(split))
        if array is not None:
            yield _inspect_array(array[start:stop])
        else:
            yield list(pool.map(lambda i: _inspect(split, i, channels), range(start, stop)))


def _inspect_array(array: np.ndarray) -> list[_ImageFacts]:
    """[N H W C] at once."""
    count, height, width, channels = array.shape
    flat = np.ascontiguousarray(array).reshape(count, height * width, channels)
    means = flat.mean(1, dtype=np.float64) / 255
    squares = np.square(flat, dtype=np.uint16).mean(1, dtype=np.float64) / 255**2  # 255 squared fits 16 bits
    kept = [(hashlib.sha256(flat[i]).digest(), (height, width), channels, 8, 1) for i in range(count)]
    return [_ImageFacts(*facts, mean=m, square=s) for facts, m, s in zip(kept, means, squares, strict=True)]


def _inspect(split: Split, index: int, channels: int) -> _ImageFacts:
    """One image by its reader. A file is read once; its header, its pixels and its hash are of the same bytes."""
    read, at = split.read, index
    while isinstance(read, SubsetReader):
        at, read = int(read.indices[at]), read.read
    if not isinstance(read, FileReader):
        try:
            return _inspect_array(read(at)[None])[0]
        except BadImage as error:
            return _ImageFacts(b"", reason=error.what.removeprefix(f"{split.names[index]} "))
    try:
        data = (read.root / read.names[at]).read_bytes()
    except OSError as error:
        return _ImageFacts(b"", reason=f"cannot be read: {(error.strerror or str(error)).lower()}")
    digest = hashlib.sha256(data).digest()
    try:
        facts, pixels = read_header(data), decode(data, channels)
    except BadImage as error:
        return _ImageFacts(digest, reason=error.what.removeprefix(f"{NAMELESS} "))
    seen = _inspect_array(pixels[None])[0]
    return _ImageFacts(digest, facts.size, facts.channels, facts.bits, facts.frames, seen.mean, seen.square)


def _summary(dataset: Dataset, looks: dict[str, list[_ImageFacts]], moments: dict[str, np.ndarray]) -> Survey:
    every = [
        (ImageReference(part, i, str(split.names[i])), look)
        for part, split in dataset.splits.items()
        for i, look in enumerate(looks[part])
    ]
    good = [(where, look) for where, look in every if not look.reason]
    copies = _copies(every)
    labelled = dataset.splits if dataset.kind == "classes" else {}
    counts = {part: _counts(split.labels, len(dataset.classes)) for part, split in labelled.items()}
    first = counts.get("train", next(iter(counts.values()), (1,)))
    mean, std = _statistics(moments.get("train", np.empty((0, 2, dataset.channels))))
    return Survey(
        counts=counts,
        images={part: len(split) for part, split in dataset.splits.items()},
        sizes=_sizes([look.size for _, look in good]),
        channels=dict(sorted(Counter(look.channels for _, look in good).items())),
        bits=dict(sorted(Counter(look.bits for _, look in good).items())),
        animated=sum(look.frames > 1 for _, look in good),
        corrupt=tuple(UnreadableImage(*where, look.reason) for where, look in every if look.reason),
        copies=copies,
        conflicts=tuple(g for g in copies if len({dataset.splits[w.split].labels[w.number].tobytes() for w in g}) > 1),
        slender=tuple(where for where, look in good if max(look.size) > SLENDER * min(look.size)),
        tiny=tuple(where for where, look in good if min(look.size) < TINY),
        imbalance=max(first) / min(first) if min(first) else float("inf"),
        mean=mean,
        std=std,
        content=_content(dataset, every),
    )


def _counts(labels: np.ndarray, classes: int) -> tuple[int, ...]:
    found = labels.sum(0, dtype=np.int64) if labels.ndim == 2 else np.bincount(labels, minlength=classes)
    return tuple(int(n) for n in found)


def _sizes(sizes: list[tuple[int, int]]) -> Sizes:
    if not sizes:
        return Sizes((0, 0, 0), (0, 0, 0), 0)
    each = np.array(sizes)
    low, middle, high = each.min(0), np.median(each, axis=0), each.max(0)
    height, width = ((int(low[i]), int(middle[i]), int(high[i])) for i in (0, 1))
    return Sizes(height, width, len(set(sizes)))


def _copies(every: list[tuple[ImageReference, _ImageFacts]]) -> tuple[tuple[ImageReference, ...], ...]:
    """Groups of equal content. Damaged files stay out: two empty files are copies, but of nothing."""
    groups = defaultdict(list)
    for where, look in every:
        if not look.reason:
            groups[look.digest].append(where)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def _statistics(moments: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation from [N 2 C], means and mean squares: exact where all images have one size."""
    mean, square = moments.mean(0) if len(moments) else np.zeros(moments.shape[1:])
    return tuple(mean.tolist()), tuple(np.sqrt(np.maximum(square - mean**2, 0)).tolist())


def _content(dataset: Dataset, every: list[tuple[ImageReference, _ImageFacts]]) -> str:
    whole = hashlib.sha256()
    labels = {part: split.labels for part, split in dataset.splits.items()}
    for name, digest, label in sorted((w.name, look.digest, labels[w.split][w.number].tobytes()) for w, look in every):
        whole.update(name.encode(errors="surrogateescape") + b"\0" + digest + label)
    for part in sorted(dataset.splits) if dataset.kind != "classes" else ():
        for index in range(len(dataset.splits[part])):
            whole.update(dataset.splits[part].annotation_bytes(index))
    return whole.hexdigest()
