"""Weights in several files, and the index that names them, as transformers, diffusers and timm write it.

An index is data from outside: it may name files of weights in its own folder alone, and each tensor that it lists has
to be in the file that it names.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vitrail.errors import CheckpointError
from vitrail.validation import format_value
from vitrail.weights.sidecars import read_object

INDEX = ".index.json"  # the ending of its name
MOST_SHARDS = 1000
LONGEST_NAME = 200  # characters of the name of a file
ENDINGS = (".safetensors", ".bin", ".pth", ".pt", ".th", ".ckpt")
AGAIN = "fetch or copy it again with all of its files, or take other weights"


class Index(NamedTuple):
    """tensors: their names, each with that of its file; size: of all tensors in bytes, 0 where the index does not
    say."""

    path: Path
    tensors: dict[str, str]
    size: int = 0

    @property
    def files(self) -> list[str]:
        return sorted(set(self.tensors.values()))


def is_index(name: str) -> bool:
    """Whether a file is the index of weights that are read here: those for other libraries have one too."""
    return name.endswith(tuple(ending + INDEX for ending in ENDINGS))


def read_index(path: Path) -> Index:
    """What an index names; whether the files are there is not looked at. Errors: `CheckpointError`."""
    about = read_object(path, AGAIN)
    table = about.get("weight_map")
    if not isinstance(table, dict) or not table:
        raise CheckpointError(f"{path} lists no tensors (its weight_map)", AGAIN)
    for name in table.values():
        if not is_beside(name):
            raise CheckpointError(
                f"{path} names {format_value(name)}, which is no file of weights beside it",
                "do not use these weights: their index was made up",
            )
    index = Index(path, table, stated_size(about))
    if len(index.files) > MOST_SHARDS:
        raise CheckpointError(f"{path} names {len(index.files):,} files, more than {MOST_SHARDS:,}", AGAIN)
    return index


def is_beside(name: Any) -> bool:
    """Whether a name is that of a file of weights in the folder of its index, on every system."""
    is_text = isinstance(name, str) and 0 < len(name) <= LONGEST_NAME and name.isprintable()
    return is_text and not set(name) & set('/\\:*?"<>|') and Path(name).suffix in ENDINGS


def stated_size(about: Mapping[str, Any]) -> int:
    metadata = about.get("metadata")
    size = metadata.get("total_size") if isinstance(metadata, dict) else 0
    return size if isinstance(size, int) and not isinstance(size, bool) and size > 0 else 0


def check_complete(index: Index, tensors: Mapping[str, Iterable[str]]) -> None:
    """Errors: `CheckpointError` where a file lacks a tensor that the index lists in it. tensors: names by file."""
    own = {file: set(names) for file, names in tensors.items()}
    missing = [name for name, file in index.tensors.items() if name not in own[file]]
    if missing:
        shown = ", ".join(format_value(name) for name in missing[:3]) + (", ..." if missing[3:] else "")
        raise CheckpointError(
            f"{index.path} lists {len(missing):,} tensors that are not in their files: {shown}", AGAIN
        )


def join_hashes(hashes: Mapping[str, str]) -> str:
    """One SHA-256 for several files: of their names and hashes."""
    return hashlib.sha256("".join(f"{hashes[name]} {name}\n" for name in sorted(hashes)).encode()).hexdigest()
