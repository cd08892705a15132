"""Names of files that another operating system cannot keep: reported before somebody copies the data there."""

import re
from collections import Counter
from collections.abc import Collection
from itertools import accumulate, chain

import numpy as np

RESERVED = {"con", "prn", "aux", "nul", *(f"{name}{i}" for name in ("com", "lpt") for i in range(1, 10))}
FORBIDDEN = frozenset('<>:"|?*\\')
SUSPECT = re.compile(  # what `is_reserved` may find, for a quick look at a million names
    r"[<>:\"|?*\\\x00-\x1f]|[ .]$|^(con|prn|aux|nul|com\d|lpt\d)\s*(\.|$)", re.IGNORECASE
)
LONGEST = 240  # characters below the root: Windows allows 260 with the root, unless it was set up for more


def portability_notes(names: Collection[str]) -> list[str]:
    """A line for each kind of file name, with / between folders, that Windows or macOS cannot keep; with how many."""
    folders: set[str] = set()
    long, reserved = [], []
    for name in names:
        folder, _, last = name.rpartition("/")
        if folder and folder not in folders:
            folders.update(accumulate(folder.split("/"), lambda above, part: f"{above}/{part}"))
        if len(name) > LONGEST:
            long.append(name)
        if SUSPECT.search(last) and is_reserved(last):
            reserved.append(name)
    reserved += [folder for folder in folders if is_reserved(folder.rpartition("/")[2])]
    long += [folder for folder in folders if len(folder) > LONGEST]
    kinds = {
        "differ only in upper and lower case: on Windows and macOS they are one": find_alike(names, folders),
        "cannot exist on Windows": sorted(set(reserved)),
        f"are longer than {LONGEST} characters: too long for many a Windows": sorted(set(long)),
    }
    return [f"{len(found):,} names {what} ({shorten(found)})" for what, found in kinds.items() if found]


def find_alike(names: Collection[str], folders: set[str]) -> list[str]:
    """The files and folders that differ from another in case only; not what lies in two such folders, which is alike
    with them. Of a million files no second copy of the names is made, but a number of each."""
    count = len(names) + len(folders)
    numbers = np.fromiter((hash(path.casefold()) for path in chain(names, folders)), np.int64, count)
    ordered = np.sort(numbers)
    several = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    if not several:
        return []
    paths = {path for path in chain(names, folders) if hash(path.casefold()) in several}
    folded = Counter(path.casefold() for path in paths)
    above = Counter(folder.casefold() for folder in folders)
    alike = [p for p in paths if folded[p.casefold()] > 1 and above[p.rpartition("/")[0].casefold()] < 2]
    return sorted(alike, key=lambda p: (p.casefold(), p))


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
