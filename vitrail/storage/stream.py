"""The bytes of a .safetensors file, one tensor at a time, so that a file as large as the memory needs none of its own.

The layout is that of safetensors' own `save`, byte for byte: the header's length, the header padded to 8 bytes, and the
tensors, those of the widest type first and by name within a type.
"""

from collections.abc import Iterator
from itertools import pairwise
from math import prod

import torch
from torch import Tensor

from vitrail.errors import CheckpointError
from vitrail.storage.json_text import to_json

CHUNK = 2**20  # bytes handed on at a time: what is hashed is still in the processor's cache when it is written
# the name and the bytes of each type that files hold, in the order of the layout
TYPES: dict[torch.dtype, tuple[str, int]] = {
    torch.uint64: ("U64", 8), torch.int64: ("I64", 8), torch.float64: ("F64", 8), torch.float32: ("F32", 4),
    torch.uint32: ("U32", 4), torch.int32: ("I32", 4), torch.bfloat16: ("BF16", 2), torch.float16: ("F16", 2),
    torch.uint16: ("U16", 2), torch.int16: ("I16", 2), torch.float8_e4m3fn: ("F8_E4M3", 1),
    torch.float8_e5m2: ("F8_E5M2", 1), torch.int8: ("I8", 1), torch.uint8: ("U8", 1), torch.bool: ("BOOL", 1),
}  # fmt: skip
RANKS = {dtype: rank for rank, dtype in enumerate(TYPES)}


def stream_tensors(tensors: dict[str, Tensor], metadata: dict[str, str]) -> Iterator[bytes | memoryview]:
    """The content of a file, in pieces of at most `CHUNK` bytes; of tensors that are not on the CPU, or not contiguous,
    one copy at a time is in memory. The tensors must not change meanwhile.

    Errors: `CheckpointError` for a type that files do not hold, a tensor that is sparse or has no data, and for tensors
    that share memory.
    """
    refuse_unsupported(tensors)
    refuse_shared(tensors)
    names = sorted(tensors, key=lambda name: (RANKS[tensors[name].dtype], name))
    yield format_header({name: tensors[name] for name in names}, metadata)
    for name in names:
        yield from tensor_bytes(tensors[name])


def format_header(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """The length and the header of a file that holds `tensors` in this order."""
    rows: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    here = 0
    for name, tensor in tensors.items():
        kind, size = TYPES[tensor.dtype]
        end = here + size * prod(tensor.shape)
        rows[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [here, end]}
        here = end
    text = to_json(rows, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def tensor_bytes(tensor: Tensor) -> Iterator[memoryview]:
    """The bytes of a tensor, without a copy where it is contiguous and on the CPU."""
    if tensor.numel():
        flat = tensor.detach().cpu().resolve_neg().contiguous().flatten().view(torch.uint8)
        whole = flat.numpy().data
        yield from (whole[start : start + CHUNK] for start in range(0, len(whole), CHUNK))


def refuse_unsupported(tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        kind = str(tensor.dtype).removeprefix("torch.")
        if tensor.dtype not in TYPES or tensor.layout != torch.strided or tensor.is_meta:
            form = "no data" if tensor.is_meta else "a sparse layout" if tensor.dtype in TYPES else f"the type {kind}"
            held = ", ".join(str(dtype).removeprefix("torch.") for dtype in TYPES)
            raise CheckpointError(f"{name[:80]} has {form}, which no file holds", f"dense tensors of {held}")


def refuse_shared(tensors: dict[str, Tensor]) -> None:
    """Tensors that are views of the same bytes would be two when they are loaded."""
    ends: list[tuple[int, int, str]] = []
    for name, tensor in tensors.items():
        if tensor.device.type == "cpu" and tensor.is_contiguous() and tensor.numel():
            ends.append((tensor.data_ptr(), tensor.data_ptr() + tensor.numel() * tensor.element_size(), name))
    ends.sort()
    for (_, end, name), (begin, _, other) in pairwise(ends):
        if begin < end:
            raise CheckpointError(f"{name[:80]} and {other[:80]} share memory", "store one of them, or a clone()")
