"""Which images, in which order, with which chance: pure functions of (seed, epoch, image), so nothing about them is ever saved.

Training reads one endless stream: the permutation of epoch 0, then of epoch 1, and so on. Step k takes positions
[k B, (k+1) B) of it, so a batch may straddle two epochs, no image is dropped, and resuming needs one number. A process takes
a contiguous share of the batch; together the shares are the batch, in order, for every number of processes that divides it.

Repeated augmentation (Hoffer et al. 2020, in DeiT's way): an epoch of N images still has N positions, so it holds the first N/R of the
permutation, each R times. The copies of one image lie in one batch (but for the one image where a batch ends) and as far apart in
it as can be: first the first copies of all, then the second ones. So no image is mixed with its own copy, and where there are
many processes most copies go to different ones.

Balanced sampling: place j of the stream of all epochs belongs to class j modulo K, and is the next image of that class in rounds that
each show the whole class once. An epoch's places are shuffled. So after any number of epochs the classes have been shown equally
often, but for one.
"""

from typing import NamedTuple

import numpy as np

WHOLE = 1 << 16  # the purpose of numbers that seed a whole generator
ROUND = WHOLE + 1  # the purpose of numbers that order a class
LARGEST = 2**64 - 1


class Keys(NamedTuple):
    """What a batch consists of: position i is image `ids[i]` in its `epochs[i]`-th showing. Both int64 [B]."""

    epochs: np.ndarray
    ids: np.ndarray

    def shard(self, rank: int, world: int) -> "Keys":
        """The part of process `rank` among `world`; the batch must divide."""
        each = len(self.ids) // world
        part = slice(rank * each, (rank + 1) * each)
        return Keys(self.epochs[part], self.ids[part])


def epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """The permutation of `count` images in one epoch."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, epoch], np.uint64))).permutation(count)


class SampleStream:
    """The endless stream. Remembers the last two epochs only to save time, never as state.

    repeats: how often an image comes in an epoch that it comes in. labels: int64 [count], to show every class equally often.
    """

    def __init__(self, seed: int, count: int, batch: int, repeats: int = 1, labels: np.ndarray | None = None):
        self.seed, self.count, self.batch, self.repeats = seed, count, batch, repeats
        self.different = -(-count // repeats)  # images in an epoch
        self.members = [] if labels is None else [np.flatnonzero(labels == c) for c in np.unique(labels)]
        self.recent: dict[int, Keys] = {}

    def keys(self, step: int) -> Keys:
        """The global batch of a step."""
        positions = np.arange(step * self.batch, (step + 1) * self.batch)
        epochs, places = positions // self.count, positions % self.count
        copies = places % self.repeats
        showings, ids = np.empty(self.batch, np.int64), np.empty(self.batch, np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            shown = self.epoch(int(epoch))
            showings[here], ids[here] = (part[places[here] // self.repeats] for part in shown)
        apart = np.argsort(copies, kind="stable")
        return Keys((showings * self.repeats + copies)[apart], ids[apart])

    def epoch(self, epoch: int) -> Keys:
        """The images of an epoch in order, each once."""
        if epoch not in self.recent:
            self.recent = {k: v for k, v in self.recent.items() if k >= epoch - 1}
            self.recent[epoch] = self.balance_epoch(epoch) if self.members else self.shuffle_epoch(epoch)
        return self.recent[epoch]

    def shuffle_epoch(self, epoch: int) -> Keys:
        ids = epoch_order(self.seed, epoch, self.count)[: self.different]
        return Keys(np.full_like(ids, epoch), ids)

    def balance_epoch(self, epoch: int) -> Keys:
        places = np.arange(epoch * self.different, (epoch + 1) * self.different)
        which, turns = places % len(self.members), places // len(self.members)
        rounds, ids = np.empty_like(places), np.empty_like(places)
        for number, members in enumerate(self.members):
            if (here := which == number).any():
                first = int(turns[here][0])
                rounds[here], ids[here] = self.class_turns(members, first, first + int(here.sum()))
        shuffle = epoch_order(self.seed, epoch, self.different)
        return Keys(rounds[shuffle], ids[shuffle])

    def class_turns(self, members: np.ndarray, first: int, stop: int) -> Keys:
        """What a class shows at its own turns `first` to `stop`: round after round, each image once a round."""
        count = len(members)
        start, end = first // count, -(-stop // count)
        rounds = np.repeat(np.arange(start, end), count)
        ids = np.tile(members, end - start)
        mixed = np.lexsort((mixed_bits(self.seed, Keys(rounds, ids), ROUND), rounds))
        wanted = mixed[first - start * count : stop - start * count]
        return Keys(rounds[wanted], ids[wanted])


def uniform_numbers(seed: int, keys: Keys, purpose: int) -> np.ndarray:
    """Uniform numbers in [0, 1), float64 [B]: one for each (seed, epoch, image, purpose), whatever else is in the batch."""
    return (mixed_bits(seed, keys, purpose) >> np.uint64(11)) * 2.0**-53


def mixed_bits(seed: int, keys: Keys, purpose: int) -> np.ndarray:
    """64 well-mixed bits for each (seed, epoch, image, purpose): splitmix64 (Steele et al. 2014) folded over the four."""
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
    """A seed for torch's generator, 63 bits, for one (seed, epoch, image), or one (seed, step, place in the batch).

    `mixed_bits` of a single key, without arrays: they would take a fifth of the time that a small image's augmentation takes.
    """
    mixed = seed
    for part in (WHOLE, epoch, index):
        mixed = splitmix_one(mixed ^ splitmix_one(part))
    return mixed >> 1


def splitmix_one(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & LARGEST
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & LARGEST
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & LARGEST
    return x ^ (x >> 31)


def shard_indices(count: int, rank: int, world: int) -> np.ndarray:
    """Which of `count` images a process evaluates: every one falls to exactly one process."""
    return np.arange(rank, count, world)
