"""Which images, in which order, with which random numbers: pure functions of (seed, epoch, image), without state.

Training reads one endless stream: the permutation of epoch 0, then of epoch 1, and so on. Step k takes positions
[k B, (k+1) B) of it, so a batch may straddle two epochs, no image is dropped, and resuming needs one number. Each rank
takes a contiguous slice of the batch; the slices in order are the batch, for every number of ranks that divides it.

Repeated augmentation (Hoffer et al. 2020, as in DeiT): an epoch of N images still has N positions, so it contains the
first N/R of the permutation, each R times. The copies of one image are in one batch (except for the one image where a
batch ends), as far apart as possible: first the first copies of all, then the second ones. So no image is mixed with
its own copy, and with many ranks most copies go to different ones.

Balanced sampling: position j of the stream of all epochs belongs to class j modulo K, and is the next image of that
class in rounds, each of which visits the whole class once. The positions of an epoch are shuffled. So after any number
of epochs the classes have been sampled equally often, within one.
"""

from typing import NamedTuple

import numpy as np

GENERATOR = 1 << 16  # purpose of numbers that seed a whole generator
ROUND = GENERATOR + 1  # purpose of numbers that order the images of a class
LARGEST = 2**64 - 1
WINDOW = 8192  # images among which the order for disks that hate seeks is shuffled


class Keys(NamedTuple):
    """The samples of a batch: position i is image `ids[i]` in its epoch `epochs[i]`. Both int64 [B]."""

    epochs: np.ndarray
    ids: np.ndarray

    def shard(self, rank: int, world: int) -> "Keys":
        """The slice of `rank` among `world`, which must divide the batch size."""
        each = len(self.ids) // world
        part = slice(rank * each, (rank + 1) * each)
        return Keys(self.epochs[part], self.ids[part])


def epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """The permutation of `count` images in one epoch."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, epoch], np.uint64))).permutation(count)


def windowed_order(seed: int, epoch: int, places: np.ndarray) -> np.ndarray:
    """The permutation of the images of one epoch for disks that hate seeks: the files in random order, each read from
    its beginning to its end, and images shuffled among `WINDOW` that follow each other. places: int64 [N], the number
    of the file times 2^40, plus the offset in it."""
    draw = np.random.Generator(np.random.Philox(key=np.array([seed, (1 << 49) + epoch], np.uint64)))
    files, file_of = np.unique(places >> 40, return_inverse=True)
    ordered = np.lexsort((places, draw.permutation(len(files))[file_of]))
    windows = np.arange(len(places)) // WINDOW
    order: np.ndarray = ordered[np.lexsort((draw.random(len(places)), windows))]
    return order


class SampleStream:
    """The endless stream. The last two epochs are cached to save time; they are no state.

    repeats: copies of an image in one epoch. labels: int64 [count], to sample every class equally often. places: where
    images lie, for `windowed_order`.
    """

    def __init__(
        self,
        seed: int,
        count: int,
        batch: int,
        repeats: int = 1,
        labels: np.ndarray | None = None,
        places: np.ndarray | None = None,
    ):
        self.seed, self.count, self.batch, self.repeats, self.places = seed, count, batch, repeats, places
        self.distinct = -(-count // repeats)  # images in an epoch
        self.members = [] if labels is None else [np.flatnonzero(labels == c) for c in np.unique(labels)]
        self.recent: dict[int, Keys] = {}

    def keys(self, step: int) -> Keys:
        """The global batch of a step."""
        positions = np.arange(step * self.batch, (step + 1) * self.batch)
        epochs, offsets = positions // self.count, positions % self.count
        copies = offsets % self.repeats
        rounds, ids = np.empty(self.batch, np.int64), np.empty(self.batch, np.int64)
        for epoch in np.unique(epochs):
            in_epoch = epochs == epoch
            order = self.epoch(int(epoch))
            rounds[in_epoch], ids[in_epoch] = (part[offsets[in_epoch] // self.repeats] for part in order)
        by_copy = np.argsort(copies, kind="stable")
        return Keys((rounds * self.repeats + copies)[by_copy], ids[by_copy])

    def epoch(self, epoch: int) -> Keys:
        """The distinct images of an epoch, in order."""
        if epoch not in self.recent:
            self.recent = {k: v for k, v in self.recent.items() if k >= epoch - 1}
            self.recent[epoch] = self.balance_epoch(epoch) if self.members else self.shuffle_epoch(epoch)
        return self.recent[epoch]

    def shuffle_epoch(self, epoch: int) -> Keys:
        if self.places is None:
            ids = epoch_order(self.seed, epoch, self.count)[: self.distinct]
        else:
            ids = windowed_order(self.seed, epoch, self.places)[: self.distinct]
        return Keys(np.broadcast_to(np.int64(epoch), ids.shape), ids)

    def balance_epoch(self, epoch: int) -> Keys:
        positions = np.arange(epoch * self.distinct, (epoch + 1) * self.distinct)
        classes, turns = positions % len(self.members), positions // len(self.members)
        rounds, ids = np.empty_like(positions), np.empty_like(positions)
        for label, images in enumerate(self.members):
            if (of_class := classes == label).any():
                first = int(turns[of_class][0])
                rounds[of_class], ids[of_class] = self.class_turns(images, first, first + int(of_class.sum()))
        shuffle = epoch_order(self.seed, epoch, self.distinct)
        return Keys(rounds[shuffle], ids[shuffle])

    def class_turns(self, members: np.ndarray, first: int, stop: int) -> Keys:
        """The images of a class at its turns `first` to `stop`: each image once a round."""
        count = len(members)
        start, end = first // count, -(-stop // count)
        rounds = np.repeat(np.arange(start, end), count)
        ids = np.tile(members, end - start)
        mixed = np.lexsort((mixed_bits(self.seed, Keys(rounds, ids), ROUND), rounds))
        selected = mixed[first - start * count : stop - start * count]
        return Keys(rounds[selected], ids[selected])


def uniform_numbers(seed: int, keys: Keys, purpose: int) -> np.ndarray:
    """Uniform numbers in [0, 1), float64 [B]: a function of (seed, epoch, image, purpose) alone."""
    return (mixed_bits(seed, keys, purpose) >> np.uint64(11)) * 2.0**-53


def mixed_bits(seed: int, keys: Keys, purpose: int) -> np.ndarray:
    """64 well-mixed bits for each (seed, epoch, image, purpose): splitmix64 (Steele et al. 2014)."""
    mixed = np.full(len(keys.ids), seed, np.uint64)
    for part in (np.full(len(keys.ids), purpose), keys.epochs, keys.ids):
        mixed = splitmix(mixed ^ splitmix(part.astype(np.uint64)))
    return mixed


def splitmix(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def derive_seed(seed: int, epoch: int, index: int) -> int:
    """A seed for torch's generator, 63 bits, for one (seed, epoch, image), or one (seed, step, position in the batch).

    `mixed_bits` of a single key, without arrays, which would take a fifth of the time to augment a small image.
    """
    mixed = seed
    for part in (GENERATOR, epoch, index):
        mixed = splitmix_one(mixed ^ splitmix_one(part))
    return mixed >> 1


def splitmix_one(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & LARGEST
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & LARGEST
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & LARGEST
    return x ^ (x >> 31)


def shard_indices(count: int, rank: int, world: int) -> np.ndarray:
    """Which of `count` images a rank evaluates: every image belongs to exactly one rank."""
    return np.arange(rank, count, world)
