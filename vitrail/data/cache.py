"""Decoded images kept in memory, once for a process and all its workers. They are stored as decoded, so nothing else changes."""

import mmap
import os
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from vitrail.data.dataset import Dataset, Split
from vitrail.data.subset import evenly_spaced

BLOCK = 256  # images that wait for being stored at a time
LOOKED_AT = 64  # images from which the size of all is estimated
SHARE = 0.5  # of the free memory that may be taken


class Memory:
    """The bytes of an unnamed file that lies in memory. A worker that is not forked is handed the file, never a copy."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __reduce__(self) -> tuple[Callable[[Any], "Memory"], tuple[Any]]:
        from multiprocessing.reduction import DupFd

        return attach, (DupFd(self.file.fileno()),)

    def __del__(self) -> None:
        self.file.close()  # whoever still reads out of the mapping keeps that


def attach(handle: Any) -> Memory:
    """The same memory in another process."""
    return Memory(open(handle.detach(), "rb"))


@dataclass(frozen=True)
class CachedReader:
    """Reads image i out of memory. starts: int64 [N]. shapes: int64 [N 3]."""

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
    """The data set with some parts kept in memory, and what a user should know of it.

    processes: how many on this machine do the same. Too little memory is no error: the images are read as before.
    Errors: `BadImage` for an image that cannot be read.
    """
    wanted = {name: dataset.splits[name] for name in parts if dataset.splits[name].array is None}
    if not wanted:
        return dataset, ["runtime.cache_images: the images lie in memory already"]
    if os.name == "nt":
        return dataset, ["runtime.cache_images is left out: on Windows the images could not be shared with the workers"]
    need, may = sum(map(estimate_bytes, wanted.values())), int(free_memory() * SHARE / processes)
    if need > may:
        return dataset, [
            f"runtime.cache_images is left out: the images take about {format_size(need)}, and {format_size(may)} may be used"
        ]
    splits, notes = dict(dataset.splits), []
    for name, split in wanted.items():
        reader = fill_memory(split)
        splits[name] = replace(split, read=reader)
        notes.append(
            f"runtime.cache_images: {len(split):,} images of {name} are kept in memory ({format_size(reader.memory.mapped.size())})"
        )
    return replace(dataset, splits=splits), notes


def fill_memory(split: Split) -> CachedReader:
    """Every image read once and kept."""
    file = create_unnamed_file()
    shapes = np.empty((len(split), 3), np.int64)
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        for start in range(0, len(split), BLOCK):
            places = range(start, min(start + BLOCK, len(split)))
            for i, pixels in zip(places, pool.map(split.read, places), strict=True):
                shapes[i] = pixels.shape
                file.write(np.ascontiguousarray(pixels).data)
    file.flush()
    sizes = shapes.prod(1)
    return CachedReader(Memory(file), sizes.cumsum() - sizes, shapes)


def create_unnamed_file() -> BinaryIO:
    """A file that no folder holds. It lives as long as its readers; unlike /dev/shm it has no limit but that of the memory."""
    if sys.platform == "linux":
        return open(os.memfd_create("images"), "wb+")
    return tempfile.TemporaryFile()


def estimate_bytes(split: Split) -> int:
    """How many bytes the decoded images take, from some that lie spread over all."""
    some = evenly_spaced(len(split), LOOKED_AT)
    return int(np.mean([split.read(int(i)).nbytes for i in some]) * len(split))


def free_memory() -> int:
    """Bytes that may be taken before the machine, or the container that this runs in, begins to swap or to kill."""
    found = []
    for line in text("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            found.append(int(line.split()[1]) * 1024)
    limit, used = text("/sys/fs/cgroup/memory.max").strip(), text("/sys/fs/cgroup/memory.current").strip()
    if limit.isdecimal() and used.isdecimal():
        found.append(max(0, int(limit) - int(used)))
    return min(found) if found else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii")
    except OSError:
        return ""


def format_size(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
