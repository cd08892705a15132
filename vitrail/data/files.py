"""Images that are files: finding them below a folder, reading them by index, holding some out. Shared by layouts."""

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from vitrail.data.dataset import Entry
from vitrail.data.decode import GREY, decode, read_header
from vitrail.data.subset import evenly_spaced
from vitrail.errors import BadImage, DataError, UsageError

IMAGE_SUFFIXES = {
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".mpo",
    ".png",
    ".apng",
    ".webp",
    ".bmp",
    ".dib",
    ".gif",
    ".tif",
    ".tiff",
}
LITTER = {"thumbs.db", "desktop.ini", "__macosx", "ehthumbs.db"}
LOOKED_AT = 512  # images whose headers decide whether a set is grey


@dataclass(frozen=True)
class FileReader:
    """Reads image i from the file `root / names[i]`: uint8 [H W channels]. Raises `BadImage`."""

    root: Path
    names: Sequence[str]
    channels: int

    def __call__(self, index: int) -> np.ndarray:
        return decode(self.root / self.names[index], self.channels)


@dataclass
class FolderContents:
    """What lies below a folder. ignored: files that are not images, by suffix; links: symbolic links that were not followed."""

    entries: list[Entry] = field(default_factory=list)
    ignored: int = 0
    links: int = 0

    def notes(self) -> list[str]:
        """What was left out, in words."""
        found = []
        if self.ignored:
            found.append(f"{self.ignored:,} files that are hidden or not images were left out")
        if self.links:
            found.append(
                f"{self.links:,} symbolic links were not followed: they leave the folder, lead in circles or lead nowhere"
            )
        return found


def is_hidden(name: str) -> bool:
    """Files and folders that a system leaves behind."""
    return name.startswith(".") or name.lower() in LITTER


def natural_key(name: str) -> list:
    """A key under which "class 2" comes before "class 10"; the name itself settles "a1" against "a01"."""
    return [(0, int(x), "") if x.isdecimal() else (1, 0, x.lower()) for x in re.split(r"(\d+)", name) if x] + [
        (2, 0, name)
    ]


def resolve_folder(path: str) -> Path:
    """The folder, resolved. Raises `DataError` that says what is there instead, or what has a similar name."""
    root = Path(path).expanduser()
    try:
        if root.is_dir():
            os.scandir(root).close()
            return root.resolve()
    except OSError as error:
        raise DataError(
            f"{path}: the folder cannot be read: {(error.strerror or str(error)).lower()}", "check its permissions"
        ) from None
    if root.exists():
        raise DataError(f"{path} is a file, not a folder", "name the folder that holds the images")
    raise DataError(f"{path}: there is no such folder", suggest_path(root))


def suggest_path(path: Path) -> str:
    """A remedy for a path that does not exist: the most similar names beside it, or the part of it that does exist."""
    parent = next(p for p in [*path.absolute().parents] if p.is_dir())
    if parent != path.absolute().parent:
        return f"{parent} exists, but nothing below it on the way to {path.name}"
    try:
        there = sorted(p for p in os.listdir(parent) if not is_hidden(p))
    except OSError:
        return "check the path"
    close = get_close_matches(path.name, there[:5000], n=3, cutoff=0.5)
    if close:
        return f"did you mean {', '.join(str(path.parent / c) for c in close)}?"
    return (
        f"in {parent} there {'is ' + ', '.join(there[:5]) + (', ...' if there[5:] else '') if there else 'is nothing'}"
    )


def list_images(root: Path, below: str = "") -> FolderContents:
    """Every image file at any depth under `root / below`, named by its path below `root`, in the order of the names.

    A symbolic link is followed where it stays inside `root` and does not lead back to a folder above itself.
    """
    found = FolderContents()
    home = os.path.realpath(root)
    start = os.path.join(home, below) if below else home
    stack: list[tuple[str, str, tuple[str, ...]]] = [(start, below, (os.path.realpath(start),))]
    while stack:
        folder, name, above = stack.pop()
        try:
            there = list(os.scandir(folder))
        except OSError as error:
            raise DataError(
                f"{folder} cannot be read: {(error.strerror or str(error)).lower()}", "check its permissions"
            ) from None
        for item in there:
            path = f"{name}/{item.name}" if name else item.name
            if is_hidden(item.name):
                found.ignored += 1
                continue
            real = os.path.join(above[-1], item.name)
            if item.is_symlink():
                real = os.path.realpath(real)
                if not (is_inside(real, home) and os.path.exists(real)) or real in above:
                    found.links += 1
                    continue
            if item.is_dir():
                stack.append((item.path, path, (*above, real)))
            elif os.path.splitext(item.name)[1].lower() in IMAGE_SUFFIXES and item.is_file():
                stat = item.stat()
                found.entries.append(Entry(path, stat.st_size, stat.st_mtime_ns))
            else:
                found.ignored += 1
    found.entries.sort(key=lambda e: e.name)
    return found


def is_inside(path: str, home: str) -> bool:
    """Whether a resolved path lies below a resolved folder."""
    return path.startswith(home.rstrip(os.sep) + os.sep)


def detect_channels(wanted: int, root: Path, names: Sequence[str]) -> int:
    """`wanted`, or for 0: 1 where all images are stored grey, else 3. Of many, some hundreds spread over the set are looked at."""
    if wanted not in (0, 1, 3, 4):
        raise UsageError(
            f"images in files cannot be read with {wanted} channels", "channels is 1, 3, 4, or 0: as the data"
        )
    if wanted:
        return wanted
    grey = False
    for i in evenly_spaced(len(names), LOOKED_AT):
        try:
            if read_header(root / names[i]).mode not in GREY:
                return 3
            grey = True
        except BadImage:  # it will be met again where images are read, and told there
            continue
    return 1 if grey else 3


def hold_out(names: Sequence[str], labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """bool [N]: which images to hold out, `share` of each class (of all, if labels are [N K]), at least one and never all of a class.

    The choice hangs on seed and names alone: not on the order in which files are found, nor, but for a few, on which others there are.
    """
    if not 0 <= share < 1:
        raise UsageError(f"held_out is {share}", "it is a share of the images: at least 0 and below 1")
    out = np.zeros(len(names), bool)
    if share == 0:
        return out
    groups = defaultdict(list)
    for i, label in enumerate(labels.tolist() if labels.ndim == 1 else [0] * len(names)):
        groups[label].append(i)
    for group in groups.values():
        group.sort(
            key=lambda i: hashlib.blake2b(f"{seed}/{names[i]}".encode(errors="surrogateescape"), digest_size=8).digest()
        )
        count = min(len(group) - 1, max(1, round(share * len(group))))
        out[group[:count]] = True
    return out


def held_out_note(kept: int, held: int, seed: int) -> str:
    """How a split was made, for the notes of a data set."""
    return f"no val part was given: {held:,} of {kept + held:,} training images are held out as val, chosen by name with seed {seed}"


def note_case_collisions(names: Iterable[str]) -> str:
    """A note where names are equal but for upper and lower case (one would overwrite the other on some systems), or ""."""
    first: dict[str, str] = {}
    pairs = [(first[low], n) for n in names if (low := n.lower()) in first or first.setdefault(low, n) != n]
    return (
        f"{len(pairs):,} names differ only in upper and lower case, such as {pairs[0][0]} and {pairs[0][1]}"
        if pairs
        else ""
    )
