"""Names of files that another operating system cannot keep: reported before somebody copies the data there."""

from collections import Counter
from collections.abc import Iterable
from itertools import accumulate

RESERVED = {"con", "prn", "aux", "nul", *(f"{name}{i}" for name in ("com", "lpt") for i in range(1, 10))}
FORBIDDEN = frozenset('<>:"|?*\\')
LONGEST = 240  # characters below the root: Windows allows 260 with the root, unless it was set up for more


def portability_notes(names: Iterable[str]) -> list[str]:
    """A line for each kind of file name, with / between folders, that Windows or macOS cannot keep; with how many."""
    paths: set[str] = set()
    for name in names:  # every file, and every folder above it
        paths.update(accumulate(name.split("/"), lambda above, part: f"{above}/{part}"))
    folded = Counter(path.casefold() for path in paths)
    # what lies in two such folders is alike with them
    alike = [p for p in paths if folded[p.casefold()] > 1 and folded[p.rpartition("/")[0].casefold()] < 2]
    alike.sort(key=lambda p: (p.casefold(), p))
    kinds = {
        "differ only in upper and lower case: on Windows and macOS they are one": alike,
        "cannot exist on Windows": sorted(p for p in paths if is_reserved(p.rpartition("/")[2])),
        f"are longer than {LONGEST} characters: too long for many a Windows": sorted(
            p for p in paths if len(p) > LONGEST
        ),
    }
    return [f"{len(found):,} names {what} ({shorten(found)})" for what, found in kinds.items() if found]


def is_reserved(part: str) -> bool:
    """Whether Windows refuses, or silently changes, a file or folder of this name."""
    return (
        part.partition(".")[0].rstrip().casefold() in RESERVED
        or part.endswith((" ", "."))
        or not FORBIDDEN.isdisjoint(part)
        or any(ord(ch) < 32 for ch in part)
    )


def shorten(names: list[str]) -> str:
    """The first two names, the middle of long ones left out."""
    plain = ["".join(ch if ch.isprintable() else "?" for ch in name) for name in names[:2]]
    first = ", ".join(n if len(n) <= 60 else f"{n[:30]}...{n[-27:]}" for n in plain)
    return first + (", ..." if len(names) > 2 else "")
