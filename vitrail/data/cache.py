"""Caches decoded images in memory, once for a process and all its workers; pixels are those that the decoder gave."""

import mmap
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from vitrail.data.dataset import Dataset, Split
from vitrail.data.subset import evenly_spaced

BLOCK = 2**28  # bytes of images that are decoded at a time before they are stored, or one image
SAMPLE_SIZE = 64  # images from which the total size is estimated
FRACTION = 0.5  # of the free memory that the cache may use
UNKNOWN_MEMORY = 2**31  # bytes that are taken as free where a system does not tell


class Memory:
    """The bytes of an anonymous in-memory file. A worker that is not forked gets the file handle, never a copy."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __reduce__(self) -> tuple[Callable[[Any], "Memory"], tuple[Any]]:
        from multiprocessing.reduction import DupFd

        return attach, (DupFd(self.file.fileno()),)

    def __del__(self) -> None:
        self.file.close()  # a reader of the mapping keeps the mapping alive


def attach(handle: Any) -> Memory:
    """The same memory in another process."""
    return Memory(open(handle.detach(), "rb"))


@dataclass(frozen=True)
class CachedReader:
    """Reads image i from memory. starts: byte offsets, int64 [N]. shapes: int64 [N 3]."""

    memory: Memory
    starts: np.ndarray
    shapes: np.ndarray

    def __call__(self, index: int) -> np.ndarray:
        shape = self.shapes[index]
        return (
            np.frombuffer(self.memory.mapped, np.uint8, int(shape.prod()), int(self.starts[index]))
            .reshape(shape)
            .copy()
        )


def cache_images(dataset: Dataset, parts: list[str], processes: int) -> tuple[Dataset, list[str]]:
    """The data set with the splits `parts` cached in memory, and notes for the user.

    processes: how many on this machine cache as well. With too little memory the images are read from disk as before.
    Errors: `BadImage` for an image that cannot be read.
    """
    uncached = {name: dataset.splits[name] for name in parts if dataset.splits[name].array is None}
    if not uncached:
        return dataset, ["runtime.cache_images: the images are in memory already"]
    if os.name == "nt":
        return dataset, ["runtime.cache_images is ignored: on Windows images cannot be shared with worker processes"]
    sizes = {name: estimate_bytes(split) for name, split in uncached.items()}
    needed, budget = sum(sizes.values()), int(free_memory() * FRACTION / processes)
    if needed > budget:
        note = f"the images need about {format_size(needed)}, and {format_size(budget)} may be used"
        return dataset, [f"runtime.cache_images is ignored: {note}"]
    splits, notes = dict(dataset.splits), []
    for name, split in uncached.items():
        reader = fill_memory(split, sizes[name] // max(1, len(split)))
        splits[name] = replace(split, read=reader)
        size = format_size(reader.memory.mapped.size())
        notes.append(f"runtime.cache_images: {len(split):,} images of {name} are cached in memory ({size})")
    return replace(dataset, splits=splits), notes


def fill_memory(split: Split, each: int) -> CachedReader:
    """Reads every image once and stores its pixels. each: bytes of an image, about."""
    file = create_unnamed_file()
    shapes = np.empty((len(split), 3), np.int64)
    block = min(256, max(1, BLOCK // max(1, each)))
    with ThreadPoolExecutor(min(16, block, os.cpu_count() or 1)) as pool:
        for start in range(0, len(split), block):
            indices = range(start, min(start + block, len(split)))
            for i, pixels in zip(indices, pool.map(split.read, indices), strict=True):
                shapes[i] = pixels.shape
                file.write(np.ascontiguousarray(pixels).data)
    file.flush()
    sizes = shapes.prod(1)
    return CachedReader(Memory(file), sizes.cumsum() - sizes, shapes)


def create_unnamed_file() -> BinaryIO:
    """An anonymous file that lives as long as its readers; unlike /dev/shm it is limited by the memory only."""
    create = vars(os).get("memfd_create")  # Linux alone has it
    return open(create("images"), "wb+") if create else tempfile.TemporaryFile()


def estimate_bytes(split: Split) -> int:
    """Bytes of all decoded images, estimated from an evenly spaced sample."""
    sample = evenly_spaced(len(split), SAMPLE_SIZE)
    return int(np.mean([split.read(int(i)).nbytes for i in sample]) * len(split))


def free_memory() -> int:
    """Bytes available before the machine or the container swaps or kills processes."""
    available = []
    for line in text("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            available.append(int(line.split()[1]) * 1024)
    limit, used = text("/sys/fs/cgroup/memory.max").strip(), text("/sys/fs/cgroup/memory.current").strip()
    if limit.isdecimal() and used.isdecimal():
        available.append(max(0, int(limit) - int(used)))
    if available:
        return min(available)
    try:  # elsewhere than on Linux: half of all memory
        sysconf = vars(os)["sysconf"]
        return int(sysconf("SC_PAGE_SIZE") * sysconf("SC_PHYS_PAGES") // 2)
    except (KeyError, ValueError, OSError):
        return UNKNOWN_MEMORY


def text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii")
    except OSError:
        return ""


def format_size(count: int) -> str:
    """A number of bytes in MB or GB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
