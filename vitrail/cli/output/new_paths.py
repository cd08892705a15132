"""Names of files and folders that do not exist yet: nothing of the user is overwritten."""

import re
from collections.abc import Sequence
from pathlib import Path

from vitrail.errors import UsageError
from vitrail.validation import as_path


def fresh(out: str, default: str = "predictions") -> Path:
    """A folder that does not exist yet, by default called `default`. Errors: `UsageError` where `out` exists."""
    if out:
        return fresh_path(out, "--out")
    number = 1
    while (path := Path(default if number == 1 else f"{default}-{number}")).exists():
        number += 1
    return path


def fresh_path(name: str, flag: str) -> Path:
    """A path at which nothing is. Errors: `UsageError`."""
    path = as_path(name)
    if path.exists() or path.is_symlink():
        raise UsageError(f"{path} is there already and is never overwritten", f"choose another {flag}")
    return path


def stems(names: Sequence[str | Path]) -> list[str]:
    """A name for each file or address, so that no two written files have the same name, even where case is ignored."""
    own = [re.sub(r"[^\w.\- ]", "-", Path(str(name).partition("?")[0]).stem) or "image" for name in names]
    written = [f"{stem}{end}".lower() for stem in own for end in ("", "-overlay", "-boxes")]
    frames = any(re.search(r"-\d{6}$", stem) for stem in own)  # as those of a video are called
    if len(set(written)) == len(written) and not frames:
        return own
    return [f"{number:05d}-{stem}" for number, stem in enumerate(own)]
