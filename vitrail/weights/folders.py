"""Published weights as they lie on disk: one file, or a folder as transformers and timm save it, with one file or with
several and an index; and the sidecar beside them."""

import hashlib
from dataclasses import replace
from pathlib import Path

from vitrail.errors import CheckpointError
from vitrail.validation import format_value
from vitrail.weights.read import TORCH, RawWeights, read_weights
from vitrail.weights.remote.hub import NAMES
from vitrail.weights.sidecars import Sidecar, read_object, read_sidecar

OURS = ("manifest.json", "recipe.toml", "state.json", "run.json")
INDEX = ".index.json"
MOST_SHARDS = 1000
READ = {".safetensors", ".npz", *TORCH}


def holds_weights(path: Path) -> bool:
    """Whether a path is a file, or a folder with files of weights as another library writes it: not a run, checkpoint
    or model folder of ours."""
    if not path.is_dir():
        return path.is_file()
    return not any((path / name).exists() for name in OURS) and bool(list_files(path))


def list_files(folder: Path) -> list[Path]:
    """The files of weights in a folder: one, or all that an index names; [] for none. A folder with one file of weights
    of any name is taken too. Errors: `CheckpointError` for an index that names no files beside it."""
    for name in NAMES:
        if (folder / name).is_file():
            return [folder / name]
        if (folder / (name + INDEX)).is_file():
            return read_index(folder / (name + INDEX))
    others = sorted(p for p in folder.iterdir() if p.suffix in READ and p.is_file())
    return others if len(others) == 1 else []


def read_index(path: Path) -> list[Path]:
    """The files of an index. Errors: `CheckpointError`."""
    table = read_object(path).get("weight_map")
    names = sorted({str(v) for v in table.values()}) if isinstance(table, dict) else []
    if not 0 < len(names) <= MOST_SHARDS:
        raise CheckpointError(f"{path} names {len(names):,} files", "copy the folder again from its source")
    for name in names:
        if Path(name).name != name or Path(name).suffix not in READ:
            raise CheckpointError(
                f"{path} names {format_value(name)}, which is no file of weights beside it",
                "do not use this folder: its index was made up",
            )
        if not (path.parent / name).is_file():
            raise CheckpointError(f"{path} names {name}, which is not there", "copy the whole folder from its source")
    return [path.parent / name for name in names]


def read_published(path: Path, sha256: str | None = None) -> tuple[RawWeights, Sidecar]:
    """The tensors of a file or folder, and what lies beside them. Of several files the hash is that of their names and
    hashes. Errors: `CheckpointError`."""
    files = list_files(path) if path.is_dir() else [path]
    if not files:
        listed = ", ".join(NAMES[:1] + NAMES[3:4])
        raise CheckpointError(f"{path} has no file of weights", f"a folder needs {listed}, or name the file itself")
    folder = files[0].parent
    beside = read_sidecar(folder)
    beside = replace(beside, certain=path.is_dir() or path.name in NAMES)
    if len(files) == 1:
        return read_weights(files[0], sha256), beside
    parts = {file.name: read_weights(file) for file in files}
    tensors = {name: t for raw in parts.values() for name, t in raw.tensors.items()}
    if len(tensors) != sum(len(raw.tensors) for raw in parts.values()):
        raise CheckpointError(f"two files in {folder} have a tensor of one name", "copy the folder from its source")
    text = "".join(f"{raw.sha256} {name}\n" for name, raw in parts.items())
    digest = hashlib.sha256(text.encode()).hexdigest()
    if sha256 is not None and digest != sha256.lower().removeprefix("sha256:"):
        raise CheckpointError(f"{folder} is not as expected: the SHA-256 of its files is {digest}", "download it again")
    notes = (f"read from {len(files)} files", *dict.fromkeys(note for raw in parts.values() for note in raw.notes))
    return RawWeights(tensors, {}, digest, notes), beside
