"""Published weights as they lie on disk: one file, or a folder as transformers and timm save it, with one file or with
several and an index; and the sidecar beside them."""

from dataclasses import replace
from pathlib import Path

from vitrail.errors import CheckpointError, many
from vitrail.weights.read import TORCH, RawWeights, read_weights
from vitrail.weights.remote.hub import NAMES, choose_main
from vitrail.weights.remote.shards import AGAIN, INDEX, check_complete, is_index, join_hashes, read_index
from vitrail.weights.sidecars import Sidecar, read_sidecar

OURS = ("manifest.json", "recipe.toml", "state.json", "run.json")
READ = {".safetensors", ".npz", *TORCH}


def holds_weights(path: Path) -> bool:
    """Whether a path is a file, or a folder with files of weights as another library writes it: not a run, checkpoint
    or model folder of ours."""
    if not path.is_dir():
        return path.is_file()
    return not any((path / name).exists() for name in OURS) and bool(list_files(path))


def list_files(path: Path) -> list[Path]:
    """The files of weights that a path means: a file, those that an index names, or those of a folder; [] for a folder
    without. A folder with one file of weights of any name is taken too. Errors: `CheckpointError` for an index that
    names files that are not beside it."""
    if not path.is_dir():
        return list_shards(path) if is_index(path.name) and path.is_file() else [path]
    if main := choose_main(p.name for p in path.iterdir() if p.is_file()):
        return list_files(path / main)
    others = sorted(p for p in path.iterdir() if p.suffix in READ and p.is_file())
    return others if len(others) == 1 else []


def list_shards(index: Path) -> list[Path]:
    """The files of an index. Errors: `CheckpointError`."""
    names = read_index(index).files
    for name in names:
        if not (index.parent / name).is_file():
            raise CheckpointError(f"{index} names {name}, which is not there", AGAIN)
    return [index.parent / name for name in names]


def find_index(path: Path) -> Path | None:
    """The index by which `list_files` found its files."""
    if path.is_dir():
        path = path / choose_main(p.name for p in path.iterdir() if p.is_file())
    return path if is_index(path.name) else None


def read_published(path: Path, sha256: str | None = None) -> tuple[RawWeights, Sidecar]:
    """The tensors of a file or folder, and what lies beside them. Of several files the hash is that of their names and
    hashes. Errors: `CheckpointError`."""
    files = list_files(path)
    if not files:
        listed = ", ".join(NAMES[:1] + NAMES[3:4])
        raise CheckpointError(f"{path} has no file of weights", f"a folder needs {listed}, or name the file itself")
    folder = files[0].parent
    beside = read_sidecar(folder, files[0].name)
    beside = replace(beside, certain=path.is_dir() or path.name.removesuffix(INDEX) in NAMES)
    index = find_index(path)
    if index is None:
        return read_weights(files[0], sha256), beside
    parts = {file.name: read_weights(file) for file in files}
    check_complete(read_index(index), {name: raw.tensors for name, raw in parts.items()})
    tensors = {name: t for raw in parts.values() for name, t in raw.tensors.items()}
    if len(tensors) != sum(len(raw.tensors) for raw in parts.values()):
        raise CheckpointError(f"two files in {folder} have a tensor of one name", AGAIN)
    digest = join_hashes({name: raw.sha256 for name, raw in parts.items()})
    if sha256 is not None and digest != sha256.lower().removeprefix("sha256:"):
        raise CheckpointError(f"{folder} is not as expected: the SHA-256 of its files is {digest}", "download it again")
    notes = (
        f"read from {many(len(files), 'file')}",
        *dict.fromkeys(note for raw in parts.values() for note in raw.notes),
    )
    return RawWeights(tensors, {}, digest, notes), beside
