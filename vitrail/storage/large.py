"""A file written once, front to back, and synced. What is large goes past the page cache where the system can: a
checkpoint of gigabytes would push the training images out of it, and copying it there costs more than hashing it."""

import mmap
import os
from collections.abc import Iterable
from pathlib import Path

BLOCK = 2**22  # bytes of a write: whole pages, from memory that begins at a page
CACHED = 2**26  # bytes at the beginning of a file that are written through the cache
DIRECT: int = vars(os).get("O_DIRECT", 0)  # Linux has it


def write_synced(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    """Errors: `OSError` as the disk gives it."""
    with path.open("wb", buffering=0) as file:
        handle, buffer = file.fileno(), memoryview(mmap.mmap(-1, BLOCK))
        filled = written = 0
        for piece in pieces:
            start = 0
            while start < len(piece):
                count = min(len(piece) - start, BLOCK - filled)
                buffer[filled : filled + count] = piece[start : start + count]
                filled, start = filled + count, start + count
                if filled == BLOCK:
                    write_all(handle, buffer)
                    filled, written = 0, written + BLOCK
                    if written == CACHED:
                        bypass_cache(handle, True)
        bypass_cache(handle, False)  # the rest is no whole number of pages
        write_all(handle, buffer[:filled])
        os.fsync(handle)


def write_all(handle: int, content: memoryview) -> None:
    while content:
        try:
            count = os.write(handle, content)
        except OSError:
            if not bypass_cache(handle, False):
                raise
            continue  # a file system may take only writes through its cache
        if count % mmap.PAGESIZE:
            bypass_cache(handle, False)
        content = content[count:]


def bypass_cache(handle: int, wanted: bool) -> bool:
    """Sets how a file is written; returns whether that changed anything."""
    if not DIRECT:
        return False
    import fcntl

    flags = fcntl.fcntl(handle, fcntl.F_GETFL)
    if bool(flags & DIRECT) == wanted:
        return False
    try:
        fcntl.fcntl(handle, fcntl.F_SETFL, flags ^ DIRECT)
    except OSError:
        return False
    return True
