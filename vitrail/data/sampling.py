"""Which pictures, in which order, with which chance: pure functions of (seed, epoch, picture), so nothing about them is ever saved.

Training reads one endless stream: the permutation of epoch 0, then of epoch 1, and so on. Step k takes positions
[k B, (k+1) B) of it, so a batch may straddle two epochs, no picture is dropped, and resuming needs one number. A process takes
a contiguous share of the batch; together the shares are the batch, in order, for every number of processes that divides it.
"""

from typing import NamedTuple

import numpy as np


class Keys(NamedTuple):
    """What a batch consists of: position i is picture `ids[i]` in its `epochs[i]`-th showing. Both int64 [B]."""

    epochs: np.ndarray
    ids: np.ndarray

    def share(self, rank: int, world: int) -> "Keys":
        """The part of process `rank` among `world`; the batch must divide."""
        each = len(self.ids) // world
        part = slice(rank * each, (rank + 1) * each)
        return Keys(self.epochs[part], self.ids[part])


def order(seed: int, epoch: int, count: int) -> np.ndarray:
    """The permutation of `count` pictures in one epoch."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, epoch], np.uint64))).permutation(count)


class Stream:
    """The endless stream. Remembers the last two permutations only to save time, never as state."""

    def __init__(self, seed: int, count: int, batch: int):
        self.seed, self.count, self.batch = seed, count, batch
        self.recent: dict[int, np.ndarray] = {}

    def keys(self, step: int) -> Keys:
        """The global batch of a step."""
        positions = np.arange(step * self.batch, (step + 1) * self.batch)
        epochs, places = positions // self.count, positions % self.count
        ids = np.empty(self.batch, np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            ids[here] = self.permutation(int(epoch))[places[here]]
        return Keys(epochs, ids)

    def permutation(self, epoch: int) -> np.ndarray:
        if epoch not in self.recent:
            self.recent = {k: v for k, v in self.recent.items() if k >= epoch - 1}
            self.recent[epoch] = order(self.seed, epoch, self.count)
        return self.recent[epoch]


def chance(seed: int, keys: Keys, purpose: int) -> np.ndarray:
    """Uniform numbers in [0, 1), float64 [B]: one for each (seed, epoch, picture, purpose), whatever else is in the batch."""
    return (bits(seed, keys, purpose) >> np.uint64(11)) * 2.0**-53


def bits(seed: int, keys: Keys, purpose: int) -> np.ndarray:
    """64 well-mixed bits for each (seed, epoch, picture, purpose): splitmix64 (Steele et al. 2014) folded over the four."""
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


def seed_of(seed: int, epoch: int, index: int) -> int:
    """A seed for torch's generator, 63 bits, for one (seed, epoch, picture), or one (seed, step, place in the batch)."""
    return int(bits(seed, Keys(np.array([epoch]), np.array([index])), WHOLE)[0] >> np.uint64(1))


WHOLE = 1 << 16  # the purpose of numbers that seed a whole generator


def share_of(count: int, rank: int, world: int) -> np.ndarray:
    """Which of `count` pictures a process evaluates: every one falls to exactly one process."""
    return np.arange(rank, count, world)
