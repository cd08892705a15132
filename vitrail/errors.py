"""What a user is told when something is wrong: what, where, how to fix it; and the exit code that goes with it."""

from collections.abc import Iterable
from difflib import get_close_matches


class VitrailError(Exception):
    """A mistake that has a remedy. `str(error)` is at most five short lines; `code` is the exit code of the command."""

    code = 1

    def __init__(self, what: str, fix: str = ""):
        super().__init__(f"{what}\n{fix}" if fix else what)
        self.what, self.fix = what, fix

    def __reduce__(self):
        return type(self), (self.what, self.fix)  # errors cross process boundaries (data workers) unchanged


class UsageError(VitrailError, ValueError):
    """The words of a call or command are off."""

    code = 2


class DataError(VitrailError):
    """The pictures or their labels cannot be used as they are."""

    code = 3


class BadImage(DataError):
    """One picture that cannot be decoded: the only error that leaves the decoder."""


class CheckpointError(VitrailError):
    """A checkpoint or weights file is missing, damaged or does not fit."""

    code = 4


class RunError(VitrailError):
    """A run stopped: a number that is not finite, a full disk, a lost process."""

    code = 1


class Interrupted(VitrailError):
    """A run was asked to stop by a signal, and saved first. `code` is 128 + the signal's number."""

    def __init__(self, what: str, fix: str = "", code: int = 130):
        super().__init__(what, fix)
        self.code = code

    def __reduce__(self):
        return type(self), (self.what, self.fix, self.code)


def pick(wanted: str, known: Iterable[str], what: str, hint: str = "") -> str:
    """`wanted` if it is known; otherwise a `UsageError` that names its nearest neighbours.

    >>> pick("base", ["tiny", "base"], "variant")
    'base'
    """
    known = [str(k) for k in known]
    if wanted in known:
        return wanted
    near = get_close_matches(str(wanted), known, n=3, cutoff=0.4) or sorted(known)[:8]
    raise UsageError(f"unknown {what} {str(wanted)!r}; did you mean {', '.join(map(repr, near))}?", hint)
