"""Reads tensors from untrusted files without executing code: .safetensors, .pth and .npz.

`weights_only=True` and `allow_pickle=False` are the second line of defence. The first: everything that a file claims,
its directory, its pickle and its shapes, is checked against its bytes before torch or numpy open it.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vitrail.errors import CheckpointError
from vitrail.storage.hashing import hash_file
from vitrail.storage.tensors import unpack
from vitrail.weights.pickle_scan import LONGEST, check_stream
from vitrail.weights.zip_directory import (
    DEFLATED,
    STORED,
    LocatedEntry,
    begins_as_zip,
    broken_error,
    check_sums,
    read_directory,
    refused_error,
)

TORCH = {".pth", ".pt", ".bin", ".ckpt", ".th"}
EXPANDED, AT_LEAST = 20, 64 * 2**20  # an .npz may grow to 20 times its size, or to 64 MiB
WRAPPERS = ("state_dict", "model_state_dict", "model", "model_ema", "teacher", "student", "module", "net")
PREFIXES = ("module.", "_orig_mod.")  # added by DistributedDataParallel and torch.compile
EXTRA_ENTRIES = {"version", "byteorder", ".format_version", ".storage_alignment", ".data/serialization_id"}


class RawWeights(NamedTuple):
    """The content of a file: tensors by name, and metadata (in our files only)."""

    tensors: dict[str, Tensor]
    about: dict[str, Any]
    sha256: str
    notes: tuple[str, ...] = ()  # other content of the file, and removed prefixes


def read_weights(path: Path, sha256: str | None = None) -> RawWeights:
    """The tensors in a file. sha256: expected hash of its bytes. Errors: `CheckpointError` for a damaged or malicious
    file.

    The tensors of a .pth are memory-mapped until they are copied; do not change the file meanwhile.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}", "give a .safetensors, .pth or .npz file")
    if path.suffix not in {".safetensors", ".npz", *TORCH}:
        raise CheckpointError(
            f"{path} is none of .safetensors, .npz, {', '.join(sorted(TORCH))}",
            "rename it: the suffix decides how it is read",
        )
    try:
        digest = hash_file(path)
        if sha256 is not None and digest != sha256.lower().removeprefix("sha256:"):
            raise CheckpointError(f"{path} is not the expected file: its SHA-256 is {digest}", "download it again")
        about: dict[str, Any] = {}
        notes: tuple[str, ...] = ()
        if path.suffix == ".safetensors":
            tensors, about = unpack(path)
        elif path.suffix == ".npz":
            tensors = read_npz(path)
        else:
            tensors, notes = read_torch(path)
        check_tensors(tensors, path)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror or error})", "check the file and its permissions"
        ) from None
    except Exception as error:  # any exception of a library means a damaged file, not a bug
        first_line = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise CheckpointError(
            f"{path} is damaged ({type(error).__name__}: {first_line})", "copy it again, or use another copy"
        ) from None
    return RawWeights(tensors, about, digest, notes)


def read_torch(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """A state dict written by torch. Old files that are a bare pickle are rejected."""
    if not begins_as_zip(path):
        raise CheckpointError(
            f"{path} is not a zip, which torch writes since 1.6: it is a bare pickle, truncated, or another format",
            "if you trust it, load and save it again with a recent torch, best as .safetensors",
        )
    entries = read_directory(path, (STORED,))
    top = entries[0].entry.name.partition("/")[0] if entries else ""
    by_name = {p.entry.name.removeprefix(f"{top}/"): p for p in entries}
    if "constants.pkl" in by_name or any(name.startswith("code/") for name in by_name):
        raise CheckpointError(
            f"{path} is a TorchScript program, not weights", "ask for its state dict, best as .safetensors"
        )
    unexpected = [
        n
        for n in by_name
        if n not in EXTRA_ENTRIES and n != "data.pkl" and not (n.startswith("data/") and n[5:].isdigit())
    ]
    if unexpected or "data.pkl" not in by_name or any(not p.entry.name.startswith(f"{top}/") for p in entries):
        raise refused_error(path, f"it contains {unexpected[0]!r}" if unexpected else "it contains no data.pkl")
    pickle_entry = by_name["data.pkl"]
    if pickle_entry.entry.size > LONGEST:
        raise refused_error(
            path, f"its pickle has {pickle_entry.entry.size:,} bytes, more than the limit of {LONGEST:,}"
        )
    with path.open("rb") as file:
        file.seek(pickle_entry.start)
        check_stream(file.read(pickle_entry.entry.size), path)
    check_sums(path, entries)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        first_line = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path} contains more than tensors, or is damaged ({first_line})", "ask for it as .safetensors"
        ) from None
    return extract_state_dict(content, path)


def extract_state_dict(content: Any, path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The state dict in what a training script saved, without prefixes of wrappers; and notes on what was ignored."""
    notes = []
    for _ in range(3):
        if not isinstance(content, Mapping) or any(isinstance(v, Tensor) for v in content.values()):
            break
        wrappers = [key for key in WRAPPERS if isinstance(content.get(key), Mapping)]
        if not wrappers:
            break
        rest = ", ".join(sorted(str(k) for k in content if k != wrappers[0])[:8])
        notes.append(f"read from {wrappers[0]!r}" + (f"; ignored beside it: {rest}" if rest else ""))
        content = content[wrappers[0]]
    tensors = (
        {str(k): v.detach() for k, v in content.items() if isinstance(v, Tensor)}
        if isinstance(content, Mapping)
        else {}
    )
    if not tensors:
        raise CheckpointError(
            f"{path} contains no state dict", f"save tensors by name, or under one of {', '.join(WRAPPERS[:4])}, ..."
        )
    if non_tensors := [str(k) for k, v in content.items() if not isinstance(v, Tensor)]:
        notes.append(f"no tensors, ignored: {', '.join(sorted(non_tensors)[:8])}")
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in tensors)), ""):
        tensors = {name.removeprefix(prefix): t for name, t in tensors.items()}
        notes.append(f"the prefix {prefix!r} was removed")
    return tensors, tuple(notes)


def read_npz(path: Path) -> dict[str, Tensor]:
    """Arrays of an .npz as tensors; bfloat16, which numpy stores as two raw bytes, comes back as bfloat16."""
    entries = read_directory(path, (STORED, DEFLATED))
    if not entries:
        raise CheckpointError(f"{path} contains no arrays", "check that it is the right file")
    total, limit = sum(p.entry.size for p in entries), max(AT_LEAST, EXPANDED * path.stat().st_size)
    if total > limit:
        raise refused_error(path, f"it would unpack to {total:,} bytes from {path.stat().st_size:,}")
    check_arrays(path, entries)
    tensors = {}
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        for name in arrays.files:
            tensors[name] = as_tensor(arrays[name])
    return tensors


def check_arrays(path: Path, entries: Iterable[LocatedEntry]) -> None:
    """Errors: `CheckpointError` where the header of an array contradicts its entry, or declares objects."""
    import zipfile

    with zipfile.ZipFile(path) as file:
        for entry, _ in entries:
            if not entry.name.endswith(".npy"):
                raise refused_error(path, f"it contains {entry.name!r}, which is no array")
            with file.open(entry.name) as opened:
                shape, kind = array_header(opened, path, entry.name)  # type: ignore[arg-type]
                begin = opened.tell()
            two_bytes = kind.kind == "V" and kind.itemsize == 2 and kind.names is None
            if kind.hasobject or not (kind.kind in "fiub" or two_bytes):
                raise refused_error(
                    path, f"{entry.name!r} contains {'objects' if kind.hasobject else kind}, not plain numbers"
                )
            if math.prod(shape) * kind.itemsize + begin != entry.size:
                raise refused_error(path, f"{entry.name!r} claims the shape {shape} and has {entry.size:,} bytes")


def array_header(file: BinaryIO, path: Path, name: str) -> tuple[tuple[int, ...], np.dtype]:
    from numpy.lib import format as npy

    try:
        version = npy.read_magic(file)
        shape, _, kind = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)
    except Exception as error:
        raise broken_error(
            path, f"{name}: {str(error).splitlines()[0][:80] if str(error) else type(error).__name__}"
        ) from None
    if any(n < 0 for n in shape):
        raise refused_error(path, f"{name!r} has the shape {shape}")
    return shape, kind


def as_tensor(array: np.ndarray) -> Tensor:
    array = np.ascontiguousarray(array).reshape(array.shape)
    if array.dtype.kind == "V":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))


def check_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Errors: `CheckpointError` for tensors larger than their storage, or without one."""
    for name, t in tensors.items():
        if (
            type(t) not in (Tensor, torch.nn.Parameter)
            or t.layout != torch.strided
            or t.device.type != "cpu"
            or t.is_quantized
        ):
            raise refused_error(path, f"{name} is no plain tensor ({t.layout}, {t.device})")
        if t.is_nested or t.is_complex():
            raise refused_error(path, f"{name} is no plain tensor ({t.dtype})")
        if t.numel() * t.element_size() > t.untyped_storage().nbytes():
            raise refused_error(
                path, f"{name} claims {t.numel():,} numbers and has {t.untyped_storage().nbytes():,} bytes"
            )
