"""Temporary files and folders of processes that were killed: what they leave is removed at the next write beside it."""

import os
import re
import shutil
import time
from pathlib import Path

TEMPORARY = re.compile(r"\.(?P<name>.+)\.tmp-(?P<process>\d+)|\.vitrail-(?P<probe>\d+)")
OLD = 3600.0  # seconds without a change after which what any process writes at once is litter


def clear_litter(path: Path) -> list[Path]:
    """Removes and returns, beside `path`, what a process that is gone left of writing `path`, and what has been left of
    anything else for an hour. What cannot be removed stays."""
    removed = []
    try:
        siblings = list(os.scandir(path.parent))
    except OSError:
        return []
    for entry in siblings:
        match = TEMPORARY.fullmatch(entry.name)
        if match is None or entry.is_symlink():
            continue
        process = int(match["process"] or match["probe"])
        is_own = match["name"] == path.name or match["probe"] is not None
        if process != os.getpid() and (_is_old(entry) or (is_own and not is_running(process))):
            remove(Path(entry.path))
            removed.append(Path(entry.path))
    return removed


def remove(path: Path) -> None:
    """Removes a file or a folder with all in it; errors are ignored."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        try:
            path.unlink(missing_ok=True)
        except OSError:
            return


def is_running(process: int) -> bool:
    """Whether a process of this machine runs; where that cannot be asked without harm (Windows), it may."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def _is_old(entry: os.DirEntry[str]) -> bool:
    try:
        return time.time() - entry.stat(follow_symlinks=False).st_mtime > OLD
    except OSError:
        return False
