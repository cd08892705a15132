"""One process works in a run's folder at a time. The kernel keeps the lock, so it ends with its process, however that ends."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from vitrail.engine.world import World
from vitrail.errors import RunError

NAME = ".lock"


@contextlib.contextmanager
def hold_lock(folder: Path, world: World) -> Iterator[None]:
    """Holds the folder; of several processes of one run the first holds it for all. Errors: `RunError` where another run does."""
    handles: list[int] = []
    world.on_rank_zero(lambda: handles.extend(take_lock(folder)))
    try:
        yield
    finally:
        for handle in handles:
            (folder / NAME).unlink(missing_ok=True)
            os.close(handle)


def take_lock(folder: Path) -> list[int]:
    """The open lock file, none where this file system or platform has no locks: then one goes on without.

    lockf rather than flock: processes that read images are forked, and flock would live on in them when the run is killed.
    """
    try:
        import fcntl

        handle = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o666)
    except (ImportError, OSError):
        return []
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not current(folder, handle):  # whoever held it has just let go and removed it
            os.close(handle)
            return take_lock(folder)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
    except (BlockingIOError, PermissionError):
        who = name(handle)
        os.close(handle)
        fix = "wait for it, or end it; it saves when it is told to stop"
        raise RunError(f"{who} is working in {folder}", fix) from None
    except OSError:
        os.close(handle)
        return []
    return [handle]


def lock_holder(folder: Path) -> str:
    """Who works in the folder now, "" where nobody does or this platform cannot know."""
    try:
        import fcntl

        handle = os.open(folder / NAME, os.O_RDONLY)
    except (ImportError, OSError):
        return ""
    try:
        fcntl.lockf(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return ""  # closing the file lets go of it again
    except (BlockingIOError, PermissionError):
        return name(handle)
    except OSError:
        return ""
    finally:
        os.close(handle)


def name(handle: int) -> str:
    """What the holder of the lock has written into it."""
    return os.pread(handle, 200, 0).decode(errors="replace") or "another process"


def current(folder: Path, handle: int) -> bool:
    """Whether the open file is still the one that others would open."""
    try:
        return os.path.samestat(os.stat(folder / NAME), os.fstat(handle))
    except FileNotFoundError:
        return False
