"""Whether a folder is as it was when it was walked: its folders by inode and time, its files by size and time. No name
is listed for it: a file that comes, goes or is renamed changes the time of its folder."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path

import numpy as np

from vitrail.data.files import inode_of
from vitrail.data.index.arrays import release
from vitrail.data.index.listing import Listing
from vitrail.data.index.names import AT_ONCE, Names

SETTLED_NS = 2 * 10**9  # age of the newest change from which on times tell one change from the next, on any file system
RELEASED = 16  # parts of names after which the memory of those that were looked at is given back
THREADS = 8  # a file system on a network answers each question late
Ask = Callable[[bytes], os.stat_result]


def is_unchanged(root: Path, folders: Listing, files: Iterable[Listing]) -> bool:
    """Whether the folders and files, named by their paths below `root`, are as they were."""
    return is_same(root, folders, of_folder=True) and all(is_same(root, listing, of_folder=False) for listing in files)


def is_same(root: Path, listing: Listing, of_folder: bool) -> bool:
    names, count = listing.names, len(listing)
    starts = range(0, count, AT_ONCE // 2)
    parts = [slice(first, first + AT_ONCE // 2) for first in starts]
    texts = [Names(names.text, names.starts[part], names.ends[part]) for part in parts]
    with opened(root) as top, ThreadPoolExecutor(min(THREADS, max(1, len(parts)))) as pool:
        for number, found in enumerate(pool.map(look_at, repeat(top), texts, repeat(of_folder))):
            part = parts[number]
            if not (np.array_equal(found[0], listing.sizes[part]) and np.array_equal(found[1], listing.times[part])):
                return False
            if number % RELEASED == RELEASED - 1:
                names.release()
                release(listing.sizes)
                release(listing.times)
    return True


@contextlib.contextmanager
def opened(root: Path) -> Iterator[Ask]:
    """How to ask for a file below a folder; by the open folder where the system can, which is faster."""
    if os.stat not in os.supports_dir_fd:
        top = os.fsencode(root)
        yield lambda name: os.stat(os.path.join(top, name))
        return
    handle = os.open(root, os.O_RDONLY)
    try:
        yield lambda name: os.stat(name, dir_fd=handle)
    finally:
        os.close(handle)


def look_at(ask: Ask, names: Names, of_folder: bool) -> np.ndarray:
    """The inodes of folders or the sizes of files, and their times: int64 [2 N]; -1 for what is not there."""
    rows = []
    for name in names.encoded():
        try:
            stat = ask(name)
            rows += [inode_of(stat) if of_folder else stat.st_size, stat.st_mtime_ns]
        except (OSError, ValueError):
            rows += [-1, -1]
    return np.array(rows, np.int64).reshape(-1, 2).T


def is_settled(now: int, listings: Iterable[Listing]) -> bool:
    """Whether the newest change is old enough: another one now would have another time. now: nanoseconds."""
    newest = max((int(listing.times.max()) for listing in listings if len(listing)), default=0)
    return now - newest > SETTLED_NS
