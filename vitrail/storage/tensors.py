"""Tensors on disk as .safetensors with damage detection: a SHA-256 over the content is stored in the file's header, or
one over the file in the manifest of its folder.

No checkpoint format detects a flipped bit by itself; all detect truncation. No pickle is read or written. What a header
claims is checked against the bytes of the file before any tensor is allocated. Nothing is held in memory twice: files
are written tensor by tensor, and read as they are mapped.
"""

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, isfinite

from vitrail.errors import CheckpointError
from vitrail.storage.atomic import MANIFEST, verify_file
from vitrail.storage.json_text import from_json, to_json
from vitrail.storage.paths import utf8_path
from vitrail.storage.stream import TYPES, stream_tensors, tensor_bytes

KEY = "vitrail"  # the only metadata key: with several, safetensors writes them in an order that differs between runs
DTYPES = dict(TYPES.values())  # bytes of each
LONGEST_HEADER = 16 * 2**20  # bytes: 100,000 tensors
LONGEST_SIDE = 2**40  # of a tensor; products of more do not fit into 64 bits
NO_HASH = to_json({"about": {}})  # what stands under `KEY` in a file whose hash is in the manifest of its folder
DAMAGED = "copy the file again from its source"


class StoredTensor(NamedTuple):
    """What a header says of a tensor. dtype: a key of `DTYPES`."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def is_floating_point(self) -> bool:
        return "F" in self.dtype


class Header(NamedTuple):
    """The header of a file, checked against its size. words: our metadata as they stand, None in the files of other
    programs."""

    tensors: dict[str, StoredTensor]
    words: str | None


def pack(tensors: dict[str, Tensor], about: dict[str, Any]) -> bytes:
    """The bytes of a file with `tensors` and the JSON-able `about`. The same input gives the same bytes."""
    return b"".join(stream(tensors, about))


def stream(tensors: dict[str, Tensor], about: dict[str, Any]) -> Iterator[bytes | memoryview]:
    """The same in pieces, for `write_file`: one tensor at a time is in memory beside `tensors`."""
    yield from stream_tensors(tensors, {KEY: make_header(tensors, about)})


def stream_listed(tensors: dict[str, Tensor]) -> Iterator[bytes | memoryview]:
    """A file without a hash of its own, for a folder whose manifest has it, so that it is computed once."""
    yield from stream_tensors(tensors, {KEY: NO_HASH})


def unpack(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and `about` of a file, verified: against the hash in its header, or else that in the manifest beside
    it. A file of another program has no hash and an empty `about`.

    Errors: `CheckpointError` for a file that is missing, truncated, altered or not safetensors.
    """
    if read_header(path).words == NO_HASH and (path.parent / MANIFEST).is_file():
        verify_file(path)
    return unpack_listed(path)


def unpack_listed(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The same for a file that was verified against the manifest of its folder."""
    from safetensors import SafetensorError, safe_open

    header = read_header(path)
    about = read_about(header, path)
    try:
        with utf8_path(path) as plain, safe_open(plain, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a whole .safetensors file ({error})", "it may be truncated; copy it again"
        ) from None
    if header.words not in (None, NO_HASH) and make_header(tensors, about) != header.words:
        raise CheckpointError(
            f"{path} was altered after it was written: its SHA-256 does not match", "use another copy or an older one"
        )
    return tensors, about


def read_header(path: Path) -> Header:
    """The header of a file; no tensor is read. Errors: `CheckpointError` for a file that is missing, truncated or not
    safetensors, with a name twice, a header beyond 16 MiB, or a dtype that no weights have."""
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}", "give a run folder, a model folder or a .safetensors file")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > size - 8:
                what = f"{path} is not a whole .safetensors file (its header claims {length:,} bytes)"
                raise CheckpointError(what, "it may be truncated; copy it again")
            if length > LONGEST_HEADER:
                what = f"its header claims {length:,} bytes, more than the limit of {LONGEST_HEADER:,}"
                raise CheckpointError(f"{path} is rejected: {what}", "get the file from a trusted source")
            rows = from_json(file.read(length))
        metadata = rows.pop("__metadata__", {})
        words = metadata.get(KEY)
        if not (words is None or isinstance(words, str)):
            raise ValueError(f"its metadata {KEY!r} is no text")
        return Header(locate_tensors(rows, size - 8 - length), words)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}", "check its permissions") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        why = " ".join(str(error).split())[:120]
        raise CheckpointError(f"the header of {path} is damaged ({why})", DAMAGED) from None


def locate_tensors(rows: dict[str, Any], size: int) -> dict[str, StoredTensor]:
    """The tensors of a header, which must fill `size` bytes one after the other. Errors: `ValueError`, `KeyError`,
    `TypeError`."""
    tensors, ends = {}, []
    for name, row in rows.items():
        dtype, shape, (begin, end) = row["dtype"], row["shape"], row["data_offsets"]
        if dtype not in DTYPES:
            raise ValueError(f"{name[:80]} has the dtype {str(dtype)[:20]!r}; supported are {', '.join(DTYPES)}")
        if not all(type(n) is int and 0 <= n <= LONGEST_SIDE for n in shape) or len(shape) > 16:
            raise ValueError(f"{name[:80]} has no valid shape")
        if not (type(begin) is type(end) is int) or end - begin != math.prod(shape) * DTYPES[dtype]:
            raise ValueError(f"{name[:80]} claims the shape {list(shape)} and has other bytes")
        tensors[name] = StoredTensor(dtype, tuple(shape))
        ends.append((begin, end))
    here = 0
    for begin, end in sorted(ends):
        if begin != here:
            raise ValueError("its tensors overlap, or there are bytes between them")
        here = end
    if here != size:
        raise ValueError(f"its tensors have {here:,} bytes, the file has {size:,} for them")
    return tensors


def read_about(header: Header, path: Path) -> dict[str, Any]:
    """Our metadata, empty where there are none; not verified yet. Errors: `CheckpointError`."""
    if header.words is None:
        return {}
    try:
        about = from_json(header.words)["about"]
    except (ValueError, KeyError, TypeError):
        about = None
    if not isinstance(about, dict):
        raise CheckpointError(f"the header of {path} is damaged", DAMAGED)
    return about


def make_header(tensors: dict[str, Tensor], about: dict[str, Any]) -> str:
    return to_json({"about": about, "sha256": digest(tensors, about)}, sort_keys=True)


def digest(tensors: dict[str, Tensor], about: dict[str, Any]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, sorted by name, and over `about`."""
    total = hashlib.sha256(to_json(about, sort_keys=True).encode())
    for name in sorted(tensors):
        t = tensors[name]
        total.update(f"{name} {t.dtype} {tuple(t.shape)}".encode())
        for piece in tensor_bytes(t):
            total.update(piece)
    return total.hexdigest()


def refuse_nonfinite(tensors: dict[str, Tensor], path: Path) -> None:
    """Errors: `CheckpointError` that names the tensors with NaN or infinity."""
    if bad := nonfinite_names(tensors):
        raise CheckpointError(
            f"NaN or infinity in {', '.join(bad[:3])} ({len(bad)} of {len(tensors)} tensors of {path})",
            "use another copy of the file, or the weights of an earlier step",
        )


def nonfinite_names(tensors: dict[str, Tensor]) -> list[str]:
    """The names of tensors with NaN or infinity, checked in chunks of 2^20 numbers."""
    return [
        n
        for n, t in tensors.items()
        if t.is_floating_point() and not all(is_finite(p) for p in t.flatten().split(2**20))
    ]


def is_finite(numbers: Tensor) -> bool:
    # of 8-bit floats torch has no isfinite
    return bool(isfinite(numbers if numbers.element_size() > 1 else numbers.float()).all())
