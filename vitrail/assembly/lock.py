"""One process works in a run's folder at a time. The operating system owns the lock, so it ends with its process,
however that ends."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vitrail.engine.processes.world import World
from vitrail.errors import RunError

NAME = ".lock"
OWNER = ".lock-owner"  # who holds it: Windows lets nobody read a file that is locked
BRIEFLY = 0.5  # seconds in which another process that only looks, or just ends, has let go of it


@contextlib.contextmanager
def hold_lock(folder: Path, world: World) -> Iterator[None]:
    """Locks the folder; of several processes of one run the first locks it for all. Errors: `RunError` where it is
    locked."""
    locks: list[Any] = []
    world.on_rank_zero(lambda: locks.extend(take_lock(folder)))
    try:
        yield
    finally:
        for lock in locks:
            release(folder, lock)


def take_lock(folder: Path) -> list[Any]:
    """The lock, none where this file system or platform has none: then the run continues without."""
    import filelock

    lock = filelock.FileLock(folder / NAME, fallback_to_soft=False)
    try:
        lock.acquire(timeout=BRIEFLY)
    except filelock.Timeout:
        fix = "wait for it, or stop it with Ctrl-C or SIGTERM: it saves first"
        raise RunError(f"{read_owner(folder)} is working in {folder}", fix) from None
    except (OSError, NotImplementedError):
        return []
    with contextlib.suppress(OSError):
        (folder / OWNER).write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
    return [lock]


def release(folder: Path, lock: Any) -> None:
    """Ends the lock and removes its files: before it ends, so that nobody else's are removed. Whoever has opened the
    lock's file by then sees that it has no name any more, and makes a new one."""
    for name in (OWNER, NAME):
        with contextlib.suppress(OSError):  # Windows removes no file that is open: the lock's own then stays
            (folder / name).unlink(missing_ok=True)
    lock.release()


def lock_holder(folder: Path) -> str:
    """The process that works in the folder, "" where none does or this platform has no locks."""
    import filelock

    if not (folder / NAME).exists():
        return ""
    lock = filelock.FileLock(folder / NAME, fallback_to_soft=False)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        return read_owner(folder)
    except (OSError, NotImplementedError):
        return ""
    lock.release()
    return ""


def read_owner(folder: Path) -> str:
    """The owner, as it has written itself beside the lock."""
    try:
        return (folder / OWNER).read_text(encoding="utf-8", errors="replace")[:200] or "another process"
    except OSError:
        return "another process"
