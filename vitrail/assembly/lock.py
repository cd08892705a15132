"""One process works in a run's folder at a time. The kernel owns the lock, so it ends with its process, however that ends."""

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
    """Locks the folder; of several processes of one run the first locks it for all. Errors: `RunError` where it is locked."""
    handles: list[int] = []
    world.on_rank_zero(lambda: handles.extend(take_lock(folder)))
    try:
        yield
    finally:
        for handle in handles:
            (folder / NAME).unlink(missing_ok=True)
            os.close(handle)


def take_lock(folder: Path) -> list[int]:
    """The open lock file, none where this file system or platform has no locks: then the run goes on without.

    lockf rather than flock: data workers are forked, and would keep a flock alive when the run is killed.
    """
    try:
        import fcntl

        handle = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o666)
    except (ImportError, OSError):
        return []
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not is_current(folder, handle):  # its owner has just released and removed it
            os.close(handle)
            return take_lock(folder)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
    except (BlockingIOError, PermissionError):
        owner = read_owner(handle)
        os.close(handle)
        fix = "wait for it, or stop it with Ctrl-C or SIGTERM: it saves first"
        raise RunError(f"{owner} is working in {folder}", fix) from None
    except OSError:
        os.close(handle)
        return []
    return [handle]


def lock_holder(folder: Path) -> str:
    """The process that works in the folder, "" where none does or this platform has no locks."""
    try:
        import fcntl

        handle = os.open(folder / NAME, os.O_RDONLY)
    except (ImportError, OSError):
        return ""
    try:
        fcntl.lockf(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return ""  # closing the file releases it
    except (BlockingIOError, PermissionError):
        return read_owner(handle)
    except OSError:
        return ""
    finally:
        os.close(handle)


def read_owner(handle: int) -> str:
    """The owner, as it has written itself into the lock file."""
    return os.pread(handle, 200, 0).decode(errors="replace") or "another process"


def is_current(folder: Path, handle: int) -> bool:
    """Whether the open file is still the one at the path."""
    try:
        return os.path.samestat(os.stat(folder / NAME), os.fstat(handle))
    except FileNotFoundError:
        return False
