"""The user's folder of what can be found out again: indices of data sets, results of checks, shards of a store."""

import contextlib
import os
from pathlib import Path

from vitrail.storage.atomic import Content, write_file


def cache_folder() -> Path:
    """XDG_CACHE_HOME/vitrail, or ~/.cache/vitrail."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "vitrail"


def keep_file(path: Path, content: Content, newest: int) -> bool:
    """Writes a file of the cache, of whose kind (folder and ending) the `newest` last used are kept. Whether it could
    be written: a cache that cannot is as good as none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, content)
        older = sorted(path.parent.glob(f"*{path.suffix}"), key=lambda p: p.stat().st_mtime, reverse=True)[newest:]
        for file in older:
            file.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def touch(path: Path) -> None:
    """Marks a file of the cache as used."""
    with contextlib.suppress(OSError):
        os.utime(path)
