"""Scans the pickle inside a .pth without executing it.

`weights_only=True` has had holes, and still allows `bytearray(10**12)`. A state dict needs fourteen names and two dozen
instructions; anything else is rejected by name, before torch opens the file.
"""

import pickletools
from pathlib import Path

from vitrail.errors import CheckpointError
from vitrail.weights.zip_directory import refused_error

LONGEST = 8 * 2**20  # bytes; a model of a thousand tensors needs 200 kB
MOST_STEPS = 1_000_000
ALLOWED_OPCODES = {
    "PROTO", "STOP", "MARK", "POP", "POP_MARK", "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2",
    "LONG1", "FLOAT", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "BINSTRING", "EMPTY_LIST", "APPEND", "APPENDS",
    "EMPTY_DICT", "SETITEM", "SETITEMS", "DICT", "LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "PUT",
    "BINPUT", "LONG_BINPUT", "GET", "BINGET", "LONG_BINGET", "GLOBAL", "REDUCE", "BUILD", "BINPERSID", "UNICODE",
}  # fmt: skip
NAMES = {
    "collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter", "torch Size",
    "torch device", "torch.nn.parameter Parameter", "torch.storage UntypedStorage", "torch.storage TypedStorage",
    "__builtin__ set", "builtins set",
}  # fmt: skip
STORAGES = {"Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool"}
KINDS = {"float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"}


def check_stream(content: bytes, path: Path) -> None:
    """Errors: `CheckpointError` that names the first instruction or name that no state dict needs."""
    allowed = NAMES | {f"torch {s}Storage" for s in STORAGES} | {f"torch {k}" for k in KINDS}
    try:
        for i, (opcode, value, _) in enumerate(pickletools.genops(content)):
            if opcode.name == "GLOBAL" and value not in allowed:
                raise rejected_pickle_error(path, str(value).replace(" ", "."))
            if opcode.name not in ALLOWED_OPCODES:
                raise rejected_pickle_error(path, f"the instruction {opcode.name}")
            if i > MOST_STEPS:
                raise refused_error(path, f"its pickle has more than {MOST_STEPS:,} instructions")
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"{path} is damaged: its pickle cannot be read ({str(error)[:80]})", "copy it again"
        ) from None


def rejected_pickle_error(path: Path, what: str) -> CheckpointError:
    reason = f"it uses {what[:120]}, which no state dict needs: it has more than tensors, or is malicious"
    return CheckpointError(
        f"{path} is rejected: {reason}",
        "ask for the weights as .safetensors; if you trust the file, load it elsewhere and save its state dict alone",
    )
