"""The index of a folder of images: what walking it once found, kept in the cache and used by the next start as long as
the folder is unchanged. It is checked by the folders' times and the files' sizes and times; no name is listed again."""

import dataclasses
import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitrail.assembly.opening.mapped import with_mapped_names
from vitrail.data.dataset import Dataset, Split
from vitrail.data.files import FileReader, inode_of
from vitrail.data.formats import image_suffixes
from vitrail.data.index.arrays import check_arrays, encode_arrays, map_arrays
from vitrail.data.index.listing import Listing, pack_entries
from vitrail.data.index.names import Names
from vitrail.data.index.watch import is_settled, is_unchanged
from vitrail.errors import VitrailError
from vitrail.storage.cache_folder import cache_folder, keep_file, touch
from vitrail.storage.json_text import to_json
from vitrail.version import __version__

FORMAT = 1
LEAST = 2048  # files of a folder from which on an index pays off
NEWEST = 12  # indices that are kept
TRIED = 2  # of those of one folder
LISTINGS = ("files", "others", "folders")
KINDS = {
    "text": np.uint8, "packed": np.uint8,
    **{f"{name}.{part}": np.int64 for name in LISTINGS for part in ("starts", "ends", "sizes", "times")},
}  # fmt: skip


@dataclass(frozen=True)
class Opened:
    """An opened data set, the name of its layout, and the folder of its images. notes: on what was read; others: on
    other layouts of the folder, which are looked for unless the layout was named."""

    dataset: Dataset
    name: str
    path: str
    notes: tuple[str, ...]
    others: tuple[str, ...] = ()
    is_named: bool = False

    def with_notes(self, is_named: bool) -> Dataset:
        """The data set with its notes, first those on other layouts unless the layout was named."""
        return dataclasses.replace(self.dataset, notes=self.notes if is_named else (*self.others, *self.notes))


def key_of(given: Sequence[Any]) -> str:
    """The beginning of the names of the indices of data. given: all that decides how it is read."""
    text = to_json([FORMAT, __version__, sorted(image_suffixes()), *given], sort_keys=True, default=str)
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:32]


def index_path(key: str, found: Opened, listings: Iterable[Listing]) -> Path:
    """Where an index lies: never where another one was, which a process may still read."""
    digest = hashlib.sha256("".join([str(found.is_named), *(one.digest for one in listings)]).encode()).hexdigest()
    return cache_folder() / "data" / f"{key}-{digest[:16]}.index"


def find_indexed(key: str, name: str) -> Opened | None:
    """The data set of an index where its folder is unchanged; None otherwise. name: of the layout, if it was given."""
    try:
        paths = sorted((cache_folder() / "data").glob(f"{key}-*.index"), key=lambda p: p.stat().st_mtime)
    except OSError:
        return None
    return next((found for path in paths[-TRIED:] if (found := read_index(path, name))), None)


def read_index(path: Path, name: str) -> Opened | None:
    try:
        about, arrays = map_arrays(path)
        if name not in ("", about["name"]) or (not name and about["is_named"]):
            return None
        found = unpack(about, arrays)
        listings = [listing(arrays, one, "") for one in LISTINGS]
        same = all(is_same_folder(*outer) for outer in about["above"])
        if not same or not is_unchanged(Path(about["root"]), listings[2], listings[:2]):
            return None
    except (VitrailError, OSError, KeyError, TypeError, ValueError, IndexError):  # damaged, or of another version
        return None
    touch(path)
    return found


def is_same_folder(path: str, inode: int, modified: int) -> bool:
    stat = Path(path).stat()
    return (inode_of(stat), stat.st_mtime_ns) == (inode, modified)


def with_index(found: Opened, given: str, key: str) -> Dataset:
    """The data set with its names as arrays, mapped from its index where that could be written. given: the folder as it
    was given, which may hold the folder of the data alone. key: of the index; "" for none."""
    dataset = found.with_notes(found.is_named)
    if len(dataset.entries) <= LEAST:
        return dataset
    files = pack_entries(dataset.entries)
    dataset = with_names(dataset, files)
    readers = [file_reader(split) for split in dataset.splits.values()]
    roots = {read.root for read in readers if read}
    if dataset.visited is None or len(roots) != 1 or None in readers or not key:
        return with_mapped_names(dataset)
    root = roots.pop()
    others, folders = pack_entries(dataset.visited.others), pack_entries(dataset.visited.folders)
    if not is_settled(time.time_ns(), (files, others, folders)):
        return with_mapped_names(dataset)  # a change that comes now could have the time of what is here
    about, arrays = pack(dataclasses.replace(found, dataset=dataset), root, (files, others, folders))
    path = index_path(key, found, (files, others, folders))
    try:
        about["above"] = folders_above(root, Path(given).expanduser().resolve())
        if keep_file(path, encode_arrays(to_json(about), arrays), NEWEST):
            return unpack(*map_arrays(path)).with_notes(found.is_named)
    except (VitrailError, OSError):  # another process has removed it
        pass
    return dataset


def folders_above(root: Path, given: Path) -> list[tuple[str, int, int]]:
    """The folders from the given one down to that of the data, without the latter."""
    above = [folder for folder in root.parents if folder == given or given in folder.parents]
    stats = [(folder, folder.stat()) for folder in above]
    return [(str(folder), inode_of(stat), stat.st_mtime_ns) for folder, stat in stats]


def file_reader(split: Split) -> FileReader | None:
    """The reader of a split whose images are files and have nothing but labels."""
    plain = isinstance(split.read, FileReader) and split.annotation is None and split.read.names is split.names
    return split.read if plain and isinstance(split.read, FileReader) else None


def with_names(dataset: Dataset, files: Listing) -> Dataset:
    """The data set with the names of its images as arrays, of one text."""
    at = {name: i for i, name in enumerate(files.names)}
    return dataclasses.replace(
        dataset,
        entries=files,
        splits={name: compact_split(split, files.names, at) for name, split in dataset.splits.items()},
    )


def compact_split(split: Split, names: Names, at: Mapping[str, int]) -> Split:
    read = file_reader(split)
    if read is None or any(name not in at for name in split.names):
        return split
    own = names.select(np.fromiter((at[name] for name in split.names), np.int64, len(split)))
    return dataclasses.replace(split, names=own, read=dataclasses.replace(read, names=own))


def pack(
    found: Opened, root: Path, listings: tuple[Listing, Listing, Listing]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The table and the arrays of an index."""
    files, dataset = listings[0], found.dataset
    texts, offset = [], 0
    arrays: dict[str, np.ndarray] = {}
    for key, one in zip(LISTINGS, listings, strict=True):
        text, starts, ends = np.asarray(one.names.text), one.names.starts + offset, one.names.ends + offset
        texts.append(text)
        offset += len(text)
        arrays |= {f"{key}.starts": starts, f"{key}.ends": ends, f"{key}.sizes": one.sizes, f"{key}.times": one.times}
    for part, split in dataset.splits.items():
        assert isinstance(split.names, Names)
        arrays |= {
            f"{part}.starts": split.names.starts,
            f"{part}.ends": split.names.ends,
            f"{part}.labels": split.labels,
        }
    arrays |= {"text": np.concatenate(texts), "packed": np.frombuffer(files.packed, np.uint8)}
    about = {
        "name": found.name, "path": str(Path(found.path).absolute()), "root": str(root), "layout": dataset.layout,
        "classes": list(dataset.classes), "parts": list(dataset.splits), "channels": dataset.channels,
        "notes": list(found.notes), "others": list(found.others), "is_named": found.is_named, "digest": files.digest,
    }  # fmt: skip
    return about, {key: np.ascontiguousarray(array) for key, array in arrays.items()}


def listing(arrays: Mapping[str, np.ndarray], name: str, digest: str) -> Listing:
    starts, ends, sizes, times = (arrays[f"{name}.{part}"] for part in ("starts", "ends", "sizes", "times"))
    return Listing(Names(arrays["text"], starts, ends), sizes, times, digest, arrays["packed"] if digest else None)


def unpack(about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Opened:
    """The data set of an index. Errors: `DataError` for one that lacks something, `KeyError` and its like."""
    check_arrays(arrays, KINDS, "the index of the data")
    channels, root = int(about["channels"]), Path(about["root"])
    splits = {}
    for part in about["parts"]:
        names = Names(arrays["text"], arrays[f"{part}.starts"], arrays[f"{part}.ends"])
        labels = np.array(arrays[f"{part}.labels"], subok=False)
        splits[part] = Split(names, labels, FileReader(root, names, channels))
    files = listing(arrays, "files", about["digest"])
    dataset = Dataset(about["layout"], tuple(about["classes"]), splits, channels, files)
    notes, others = tuple(about["notes"]), tuple(about["others"])
    return Opened(dataset, about["name"], about["path"], notes, others, about["is_named"])
