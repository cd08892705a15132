"""Tensors on disk as .safetensors that notice damage: a SHA-256 over the content travels in the file's own header.

No checkpoint format detects a flipped bit by itself; truncation all of them notice. No pickle is read or written anywhere.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from torch import Tensor, uint8

from vitrail.errors import CheckpointError

KEY = "vitrail"  # the one metadata key: with more than one, safetensors writes them in an order that changes from run to run


def pack(tensors: dict[str, Tensor], about: dict[str, Any]) -> bytes:
    """The bytes of a file that holds `tensors` and the JSON-able `about`. The same input gives the same bytes."""
    from safetensors.torch import save

    held = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    return save(held, {KEY: header_of(held, about)})


def unpack(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and `about` of a file, verified. A file that someone else wrote has no hash and an empty `about`.

    Errors: `CheckpointError` for anything that is missing, cut short, altered or not safetensors.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise CheckpointError(f"there is no file {path}", "give a run folder, a model folder or a .safetensors file")
    try:
        with safe_open(path, framework="pt") as file:
            words = (file.metadata() or {}).get(KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a whole .safetensors file ({error})", "it may be cut short; copy it again"
        ) from None
    if words is None:
        return tensors, {}
    try:
        header = json.loads(words)
        about = header["about"]
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(f"the header of {path} is damaged", "copy the file again from where it came") from None
    if header_of(tensors, about) != words:
        raise CheckpointError(
            f"{path} was altered after it was written: its SHA-256 does not match", "use another copy or an older one"
        )
    return tensors, about


def header_of(tensors: dict[str, Tensor], about: dict[str, Any]) -> str:
    return json.dumps({"about": about, "sha256": digest(tensors, about)}, sort_keys=True)


def digest(tensors: dict[str, Tensor], about: dict[str, Any]) -> str:
    """SHA-256 over names, kinds, shapes and bytes in the order of the names, and over `about`."""
    total = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(tensors):
        t = tensors[name].contiguous()
        total.update(f"{name} {t.dtype} {tuple(t.shape)}".encode())
        total.update(t.flatten().view(uint8).numpy().tobytes() if t.numel() else b"")
    return total.hexdigest()
