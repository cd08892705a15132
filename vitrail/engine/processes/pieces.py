"""Checkpoints of divided models: each process writes what it holds as one .safetensors file, in the form of
torch.distributed.checkpoint's `HuggingFaceStorageWriter`, and its reader reads the pieces that any number of processes
needs, or one process all of them. No pickle.

Written by our own: torch's writer holds a whole file in memory twice, and neither syncs nor hashes it. A tensor without
a dimension comes back as zero from such files, so these are in state.json.
"""

import json
import warnings
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vitrail.engine.processes.tensors import locate
from vitrail.errors import CheckpointError
from vitrail.storage.json_text import to_json
from vitrail.storage.paths import utf8_path
from vitrail.storage.stream import TYPES, stream_tensors
from vitrail.storage.tensors import LONGEST_SIDE, StoredTensor, read_header, refuse_nonfinite, unpack_listed

PATTERN, INFO, OFFSETS = "shard-*.safetensors", "DCP_SHARDING_INFO", "saved_offsets"
SHAPE = "shape"  # beside the offsets: ours; torch would not see that the last piece of a tensor is missing
ANOTHER = "use another checkpoint"
Scalars = dict[str, list[Any]]  # by "part/name": dtype and value


class Snapshot(NamedTuple):
    """What one process saves. pieces: of tensors by "part/name"; places: where they begin in the whole ones, and the
    shapes of these."""

    pieces: dict[str, Tensor]
    places: dict[str, dict[str, list[int]]]
    scalars: Scalars

    def stream(self) -> Iterator[bytes | memoryview]:
        """The bytes of its file."""
        yield from stream_tensors(self.pieces, {INFO: to_json(self.places), "DCP_VERSION": "1.0", "format": "pt"})


def shard_file(rank: int) -> str:
    return f"shard-{rank + 1:05d}-model-00001-of-00001.safetensors"


def take_snapshot(parts: Mapping[str, Mapping[str, Tensor]], is_first: bool) -> Snapshot:
    """What this process holds of the tensors of a state; the memory is shared."""
    pieces, places, scalars = {}, {}, {}
    for part, tensors in parts.items():
        for name, tensor in tensors.items():
            own = locate(tensor, is_first)
            if not tensor.ndim:
                scalars[f"{part}/{name}"] = [str(tensor.dtype).removeprefix("torch."), own.values.item()]
            elif own.is_mine and own.values.numel():
                pieces[f"{part}/{name}"] = own.values
                places[f"{part}/{name}"] = {OFFSETS: list(own.offsets), SHAPE: list(tensor.shape)}
    return Snapshot(pieces, places, scalars)


def is_sharded(path: Path) -> bool:
    """Whether a checkpoint is in pieces."""
    return next(path.glob(PATTERN), None) is not None


def read_layout(path: Path) -> dict[str, StoredTensor]:
    """The whole tensors of a checkpoint by "part/name". Errors: `CheckpointError` where pieces of one are missing, or
    do not fit together."""
    from safetensors import safe_open

    ends: dict[str, list[int]] = {}
    counts: dict[str, int] = {}
    kinds: dict[str, str] = {}
    for file in sorted(path.glob(PATTERN)):
        header = read_header(file)
        try:
            with utf8_path(file) as plain, safe_open(plain, framework="pt") as opened:
                info = json.loads((opened.metadata() or {})[INFO])
            for name, stored in header.tensors.items():
                begin, whole = info[name][OFFSETS], info[name].get(SHAPE, [0] * len(stored.shape))
                if not all(type(n) is int and 0 <= n <= LONGEST_SIDE for n in (*begin, *whole)):
                    raise ValueError(f"{name[:80]} has no valid place")
                end = [a + b for a, b in zip(begin, stored.shape, strict=True)]
                before = ends.setdefault(name, whole)
                if len(before) != len(end) or kinds.setdefault(name, stored.dtype) != stored.dtype:
                    raise ValueError(f"the pieces of {name[:80]} are not of one tensor")
                ends[name] = [max(a, b) for a, b in zip(before, end, strict=True)]
                counts[name] = counts.get(name, 0) + prod(stored.shape)
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise CheckpointError(f"{file} is damaged ({error})", ANOTHER) from None
    for name, shape in ends.items():
        if counts[name] != prod(shape):
            raise CheckpointError(f"{path} has {counts[name]:,} of {prod(shape):,} numbers of {name[:80]}", ANOTHER)
    return {name: StoredTensor(kinds[name], tuple(shape)) for name, shape in ends.items()}


def refuse_bad_pieces(path: Path) -> None:
    """Errors: `CheckpointError` for pieces that are missing or do not fit, and for NaN or infinity in one."""
    read_layout(path)
    for file in sorted(path.glob(PATTERN)):
        refuse_nonfinite(unpack_listed(file)[0], file)


def read_into(path: Path, targets: dict[str, Tensor]) -> None:
    """Fills tensors, whole or divided, from a checkpoint that was verified; each process reads what it holds, without
    asking another. Errors: `CheckpointError`."""
    import torch.distributed.checkpoint as dcp

    if not targets:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that no other process is asked, which is meant
            dcp.load(dict(targets), storage_reader=dcp.HuggingFaceStorageReader(str(path)), no_dist=True)
    except (dcp.CheckpointException, RuntimeError, ValueError, KeyError, OSError, AssertionError) as error:
        # the first of these is no Exception
        why = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise CheckpointError(f"{path} cannot be read ({why[:200]})", ANOTHER) from None


def read_whole(path: Path, scalars: Scalars) -> dict[str, dict[str, Tensor]]:
    """All tensors of a checkpoint, whole, by part and name."""
    dtypes = {kind: dtype for dtype, (kind, _) in TYPES.items()}
    layout = read_layout(path)
    targets = {name: torch.empty(stored.shape, dtype=dtypes[stored.dtype]) for name, stored in layout.items()}
    read_into(path, targets)
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in {**targets, **read_scalars(scalars)}.items():
        part, _, own = name.partition("/")
        parts.setdefault(part, {})[own] = tensor
    return parts


def read_scalars(scalars: Scalars) -> dict[str, Tensor]:
    """Tensors without a dimension, as state.json has them. Errors: `CheckpointError`."""
    dtypes = {str(dtype).removeprefix("torch."): dtype for dtype in TYPES}
    try:
        return {name: torch.tensor(value, dtype=dtypes[kind]) for name, (kind, value) in scalars.items()}
    except (KeyError, ValueError, TypeError, RuntimeError, AttributeError, OverflowError) as error:
        raise CheckpointError(f"the scalars in state.json are damaged ({error})", ANOTHER) from None
