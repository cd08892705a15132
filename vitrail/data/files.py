"""Image files: lists them below a folder, reads them by index, holds out a validation split. Shared by layouts."""

import hashlib
import os
import re
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from vitrail.data.annotations.captions import captions_beside
from vitrail.data.dataset import Entry, Visited
from vitrail.data.decode import GREY, Header, decode, read_bytes, read_header
from vitrail.data.formats import image_suffixes, way_to_read
from vitrail.data.subset import evenly_spaced
from vitrail.errors import BadImage, DataError, UsageError, many

SYSTEM_FILES = {"thumbs.db", "desktop.ini", "__macosx", "ehthumbs.db"}
KINDS = 6  # endings that are listed by name
OUTSIDE = "out of the folder"
SAMPLE_SIZE = 512  # images whose headers decide whether a set is grey


class EncodedReader(ABC):
    """Reads image i as uint8 [H W C] from a file, or from the bytes of one. Raises `BadImage`."""

    @abstractmethod
    def __call__(self, index: int) -> np.ndarray: ...

    @abstractmethod
    def encoded(self, index: int) -> bytes:
        """The bytes of the file. Raises `BadImage` and `OSError`."""

    @abstractmethod
    def header(self, index: int) -> Header:
        """The header alone. Raises `BadImage`."""

    @abstractmethod
    def captions(self, index: int) -> str:
        """The captions that lie beside the bytes, one in each line, whatever the data set is read for; "" for none."""

    @abstractmethod
    def reduced(self, least: int) -> "EncodedReader":
        """The same reader with JPEGs decoded at a reduced size, see `decode`."""


@dataclass(frozen=True)
class FileReader(EncodedReader):
    """Reads image i from the file `root / names[i]`: uint8 [H W channels]. Raises `BadImage`. least: as in `decode`."""

    root: Path
    names: Sequence[str]
    channels: int
    least: int = 0

    def __call__(self, index: int) -> np.ndarray:
        return decode(self.root / self.names[index], self.channels, least=self.least)

    def encoded(self, index: int) -> bytes:
        return read_bytes(self.root / self.names[index])

    def header(self, index: int) -> Header:
        return read_header(self.root / self.names[index])

    def captions(self, index: int) -> str:
        return captions_beside(self.root, self.names[index])

    def reduced(self, least: int) -> EncodedReader:
        return replace(self, least=least)


@dataclass
class FolderContents:
    """Files below a folder. others: number of files that are not read, by ending; hidden: hidden files and folders;
    links: symbolic links not followed, by the reason. visited: what was looked at beside the images."""

    entries: list[Entry] = field(default_factory=list)
    visited: Visited = field(default_factory=Visited)
    others: Counter[str] = field(default_factory=Counter)
    hidden: int = 0
    links: dict[str, list[str]] = field(default_factory=dict)

    def notes(self, expected: Collection[str] = ()) -> list[str]:
        """Notes for the user on what was left out: its count, its kind and the reason or the remedy. expected: endings
        of files that belong to the layout."""
        messages = []
        unread = {suffix: way_to_read(suffix) for suffix in sorted(self.others)}
        for way in sorted(set(unread.values()) - {""}):
            listed = ", ".join(f"{self.others[s]:,} {s}" for s in unread if unread[s] == way)
            messages.append(f"images that cannot be read here were left out: {listed}; to read them: {way}")
        kinds = [
            (n, s or "without an ending") for s, n in self.others.most_common() if not unread[s] and s not in expected
        ]
        if kinds:
            listed = ", ".join(f"{n:,} {s}" for n, s in kinds[:KINDS]) + (", ..." if kinds[KINDS:] else "")
            messages.append(f"{sum(n for n, _ in kinds):,} files that are not images were left out: {listed}")
        if self.hidden:
            messages.append(f"{self.hidden:,} hidden files or folders were left out")
        if links := self.link_note():
            messages.append(links)
        return messages

    def link_note(self) -> str:
        """A sentence on the symbolic links that were not followed, with the flag that follows them; "" for none."""
        reasons = [f"{many(len(own), 'link')} {why}, the first {own[0]}" for why, own in sorted(self.links.items())]
        if OUTSIDE in self.links:
            reasons.append("--data.follow-links follows those that leave it")
        count = sum(map(len, self.links.values()))
        return f"{count:,} symbolic links were not followed: {'; '.join(reasons)}" if count else ""


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden or made by an operating system."""
    return name.startswith(".") or name.lower() in SYSTEM_FILES


def natural_key(name: str) -> list:
    """A sort key that puts "class 2" before "class 10"; ties such as "a1" and "a01" are broken by the name itself."""
    words = [x.lstrip("0") if x.isdecimal() else x for x in re.split(r"(\d+)", name) if x]
    # of two numbers the longer is the greater, however many digits they have
    return [(1, 0, x.lower()) if x and not x.isdecimal() else (0, len(x), x) for x in words] + [(2, 0, name)]


def resolve_folder(path: str) -> Path:
    """The folder, resolved. Raises `DataError` with what the path is instead, or with similar names."""
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
        raise DataError(f"{path} is a file, not a folder", "give the folder that contains the images")
    raise DataError(f"{path}: there is no such folder", suggest_path(root))


def suggest_path(path: Path) -> str:
    """A remedy for a path that does not exist: similar names in its folder, or the part of it that does exist."""
    try:
        parent = next((p for p in path.absolute().parents if p.is_dir()), None)
    except (OSError, ValueError):  # no permission, or a name that no file can have
        parent = None
    if parent is None:
        return "check the path"
    if parent != path.absolute().parent:
        return f"{parent} exists, but no folder below it on the path to {path.name}"
    try:
        siblings = sorted(p for p in os.listdir(parent) if not is_hidden(p))
    except OSError:
        return "check the path"
    similar = get_close_matches(path.name, siblings[:5000], n=3, cutoff=0.5)
    if similar:
        return f"did you mean {', '.join(str(path.parent / c) for c in similar)}?"
    listed = ", ".join(siblings[:5]) + (", ..." if siblings[5:] else "")
    return f"{parent} contains {listed or 'nothing'}"


def list_images(root: Path, below: str = "", follow: bool = False) -> FolderContents:
    """Every image file at any depth under `root / below`, named by its path below `root`, sorted by name.

    A symbolic link is followed where it stays inside `root`, or anywhere with `follow`, and does not lead back to a
    folder above itself.
    """
    contents, suffixes = FolderContents(), image_suffixes()
    for path, item in walk_files(root, below, follow, contents.links, contents.visited.folders):
        suffix = os.path.splitext(path)[1].lower()
        if item is None:
            contents.hidden += 1
        elif suffix in suffixes and item.is_file():
            stat = item.stat()
            contents.entries.append(Entry(path, stat.st_size, stat.st_mtime_ns))
        else:
            contents.others[suffix] += 1
            contents.visited.others.append(stamp_of(path, item))
    contents.entries.sort(key=lambda e: e.name)
    return contents


def stamp_of(path: str, item: os.DirEntry[str]) -> Entry:
    """A file that is no image; a pipe, a socket or a file that has gone meanwhile has no size."""
    try:
        stat = item.stat()
    except OSError:
        return Entry(path, -1, -1)
    return Entry(path, stat.st_size, stat.st_mtime_ns)


def inode_of(stat: os.stat_result) -> int:
    """The number of a file on its file system, in 63 bits."""
    return stat.st_ino & (2**63 - 1)


def walk_files(
    root: Path, below: str, follow: bool, links: dict[str, list[str]], folders: list[Entry] | None = None
) -> Iterator[tuple[str, os.DirEntry[str] | None]]:
    """Everything but folders under `root / below`, with its path below `root`, in no order; None for what is hidden.

    links: gets the paths of the symbolic links that are not followed, by reason. folders: gets the folders, with their
    inodes and times. Errors: `DataError`.
    """
    top = os.path.realpath(root)
    start = os.path.join(top, below) if below else top
    stack: list[tuple[str, str, tuple[str, ...]]] = [(start, below, (os.path.realpath(start),))]
    while stack:
        folder, name, above = stack.pop()
        try:
            stat = os.stat(folder)  # before it is listed: what comes later is a change
            items = list(os.scandir(folder))
        except OSError as error:
            raise DataError(
                f"{folder} cannot be read: {(error.strerror or str(error)).lower()}", "check its permissions"
            ) from None
        if folders is not None:
            folders.append(Entry(name or ".", inode_of(stat), stat.st_mtime_ns))
        for item in items:
            path = f"{name}/{item.name}" if name else item.name
            if is_hidden(item.name):
                yield path, None
                continue
            is_link = item.is_symlink()
            if is_link:
                real = os.path.realpath(os.path.join(above[-1], item.name))
                if why := refuse_link(real, top, above, follow):
                    links.setdefault(why, []).append(path)
                    continue
            if item.is_dir():
                stack.append((item.path, path, (*above, real if is_link else os.path.join(above[-1], item.name))))
            else:
                yield path, item


def refuse_link(real: str, top: str, above: Sequence[str], follow: bool) -> str:
    """Why a symbolic link to `real` is not followed; "" where it is. above: the folders that it stands in."""
    if not os.path.exists(real):
        return "to nothing"
    if any(folder == real or is_inside(folder, real) for folder in above):
        return "to a folder above"
    return "" if follow or is_inside(real, top) else OUTSIDE


def is_inside(path: str, folder: str) -> bool:
    """Whether a resolved path is below a resolved folder."""
    return path.startswith(folder.rstrip(os.sep) + os.sep)


def detect_channels(channels: int, root: Path, names: Sequence[str]) -> int:
    """`channels`, or for 0: 1 if all images are stored grey, else 3. Reads at most 512 evenly spaced headers."""
    if channels not in (0, 1, 3, 4):
        raise UsageError(f"image files cannot be read with {channels} channels", "channels is 1, 3, 4, or 0: as stored")
    if channels:
        return channels
    grey = False
    for i in evenly_spaced(len(names), SAMPLE_SIZE):
        try:
            if read_header(root / names[i]).mode not in GREY:
                return 3
            grey = True
        except BadImage:  # reported where the image is read
            continue
    return 1 if grey else 3


def hold_out(names: Sequence[str], labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """bool [N]: which images to hold out, `fraction` of each class (of all for [N K]): at least one, never all.

    The choice depends on seed and names only: not on the order of the files nor, but for a few, on which others exist.
    """
    if not 0 <= fraction < 1:
        raise UsageError(f"held_out is {fraction}", "it is a fraction of the images: at least 0 and below 1")
    is_held_out = np.zeros(len(names), bool)
    groups = defaultdict(list)
    for i, label in enumerate(labels.tolist() if labels.ndim == 1 else [0] * len(names)):
        groups[label].append(i)
    for group in groups.values() if fraction else ():
        group.sort(
            key=lambda i: hashlib.blake2b(f"{seed}/{names[i]}".encode(errors="surrogateescape"), digest_size=8).digest()
        )
        count = min(len(group) - 1, max(1, round(fraction * len(group))))
        is_held_out[group[:count]] = True
    return is_held_out


def held_out_note(train: int, val: int, seed: int) -> str:
    """The note on a validation split that was held out from the training images."""
    chosen = f"{val:,} of {train + val:,} training images are held out as val"
    return f"the data has no val split: {chosen}, chosen by name with seed {seed}"


def note_case_collisions(names: Iterable[str]) -> str:
    """A note on names that differ only in case (one would overwrite the other on some systems), or ""."""
    first: dict[str, str] = {}
    pairs = [(first[low], n) for n in names if (low := n.lower()) in first or first.setdefault(low, n) != n]
    return f"{len(pairs):,} names differ only in case, such as {pairs[0][0]} and {pairs[0][1]}" if pairs else ""
