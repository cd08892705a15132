"""Tensors on disk as .safetensors with damage detection: a SHA-256 over the content is stored in the file's header.

No checkpoint format detects a flipped bit by itself; all detect truncation. No pickle is read or written.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from torch import Tensor, uint8

from vitrail.errors import CheckpointError
from vitrail.storage.json_text import to_json
from vitrail.storage.paths import utf8_path

KEY = "vitrail"  # the only metadata key: with several, safetensors writes them in an order that differs between runs


def pack(tensors: dict[str, Tensor], about: dict[str, Any]) -> bytes:
    """The bytes of a file with `tensors` and the JSON-able `about`. The same input gives the same bytes."""
    from safetensors.torch import save

    contiguous = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    return save(contiguous, {KEY: make_header(contiguous, about)})


def unpack(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and `about` of a file, verified. A file of another program has no hash and an empty `about`.

    Errors: `CheckpointError` for a file that is missing, truncated, altered or not safetensors.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise CheckpointError(f"there is no file {path}", "give a run folder, a model folder or a .safetensors file")
    try:
        with utf8_path(path) as plain, safe_open(plain, framework="pt") as file:
            words = (file.metadata() or {}).get(KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a whole .safetensors file ({error})", "it may be truncated; copy it again"
        ) from None
    if words is None:
        return tensors, {}
    try:
        header = json.loads(words)
        about = header["about"]
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(f"the header of {path} is damaged", "copy the file again from its source") from None
    if make_header(tensors, about) != words:
        raise CheckpointError(
            f"{path} was altered after it was written: its SHA-256 does not match", "use another copy or an older one"
        )
    return tensors, about


def make_header(tensors: dict[str, Tensor], about: dict[str, Any]) -> str:
    return to_json({"about": about, "sha256": digest(tensors, about)}, sort_keys=True)


def digest(tensors: dict[str, Tensor], about: dict[str, Any]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, sorted by name, and over `about`."""
    total = hashlib.sha256(to_json(about, sort_keys=True).encode())
    for name in sorted(tensors):
        t = tensors[name].contiguous()
        total.update(f"{name} {t.dtype} {tuple(t.shape)}".encode())
        total.update(t.flatten().view(uint8).numpy().tobytes() if t.numel() else b"")
    return total.hexdigest()
