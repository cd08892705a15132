"""Which images every start looks at: a sample by the hash of their names, so that it hardly changes when images are
added or removed."""

import zlib
from collections.abc import Sequence

import numpy as np

from vitrail.data.dataset import Dataset
from vitrail.data.index.names import pack_names
from vitrail.data.sampling import splitmix

SAMPLE = 2048  # images of a sample; a data set of no more is read whole
FROM_TRAIN = 0.75  # of the sample, where there are so many


def choose_sample(dataset: Dataset) -> dict[str, np.ndarray]:
    """Indices of the sample by split, ascending: `SAMPLE` images in the order of their hashes, three quarters of them
    from train where both have enough; every image where there are no more, and of those that are in memory already."""
    files = {name: len(split) for name, split in dataset.splits.items() if split.array is None}
    every = {name: np.arange(len(split)) for name, split in dataset.splits.items()}
    if sum(files.values()) <= SAMPLE:
        return every
    others = sum(files.values()) - files.get("train", 0)
    rest = min(others, max(SAMPLE - files.get("train", 0), round(SAMPLE * (1 - FROM_TRAIN))))
    hashes = {name: hash_names(dataset.splits[name].names) for name in files}
    if "train" in files:
        every["train"] = lowest(hashes["train"], SAMPLE - rest)
    beside = [name for name in files if name != "train"]
    joined = np.concatenate([hashes[name] for name in beside]) if beside else np.zeros(0, np.uint64)
    chosen, start = lowest(joined, rest), 0
    for name in beside:
        own = chosen[(chosen >= start) & (chosen < start + files[name])]
        every[name], start = own - start, start + files[name]
    return every


def lowest(hashes: np.ndarray, count: int) -> np.ndarray:
    """Indices of the `count` lowest, ascending."""
    return np.sort(np.argsort(hashes, kind="stable")[:count])


def hash_names(names: Sequence[str]) -> np.ndarray:
    """uint64 [N]: first by the name of the file alone, so that copies of one name in two parts are both looked at; of
    equal ones by the whole name."""
    whole = np.empty((2, len(names)), np.uint64)
    packed = pack_names(names)
    for i, name in enumerate(name for block in packed.blocks() for name in block.encoded()):
        whole[:, i] = zlib.crc32(name[name.rfind(b"/") + 1 :]), zlib.crc32(name)
    return splitmix(whole[0]) >> np.uint64(32) << np.uint64(32) | splitmix(whole[1]) >> np.uint64(32)
