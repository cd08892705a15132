"""ONNX Runtime on the CPU."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitrail.errors import CheckpointError, UsageError
from vitrail.inference.engine import Arrays, Engine, EngineFile

SUFFIXES = (".onnx",)


@dataclass(frozen=True)
class Config:
    """It has no settings."""


class OnnxEngine(Engine):
    """A session of ONNX Runtime."""

    name = "onnx"

    def __init__(self, session: Any, outputs: tuple[str, ...]):
        self.session, self.outputs = session, outputs
        self.inputs = {one.name for one in session.get_inputs()}

    def run(self, images: np.ndarray, sizes: np.ndarray) -> Arrays:
        given = {"images": images, "sizes": sizes}
        values = self.session.run(list(self.outputs), {k: v for k, v in given.items() if k in self.inputs})
        return dict(zip(self.outputs, values, strict=True))


class OnnxFile(EngineFile):
    def open(self, path: Path, outputs: tuple[str, ...], threads: int) -> OnnxEngine:
        return open_session(read_whole(path), outputs, threads, str(path))


def read_whole(path: Path) -> bytes:
    """A file with all of its weights in it. Errors: `CheckpointError` for one that names others, which nobody hashed:
    engines would read them, beside it or in the current folder."""
    content = path.read_bytes()
    if b"location" in content:  # the name of a file with weights has this key; so may other words, and they are parsed
        try:
            import onnx
        except ImportError:
            raise UsageError("onnx is not installed", "pip install 'vitrail[onnx]'") from None
        try:
            is_whole = not names_files(onnx.load_from_string(content))
        except Exception:  # protobuf's own class: it is no ONNX file, and the engine says what is wrong
            is_whole = True
        if not is_whole:
            raise CheckpointError(f"{path} has weights in other files, which are not read", "export it again")
    return content


def names_files(message: Any) -> bool:
    """Whether a part of an ONNX file has its values in another file."""
    for field, value in message.ListFields():
        if field.name == "external_data":
            return True
        if field.message_type and any(map(names_files, value if field.is_repeated else [value])):
            return True
    return False


def open_session(source: Path | bytes, outputs: tuple[str, ...], threads: int, where: str) -> OnnxEngine:
    """A file, or its content, as an engine; `where` is its name in messages. Errors: as `EngineFile.open`."""
    try:
        import onnxruntime as ort
    except ImportError:
        raise UsageError("ONNX Runtime is not installed", "pip install 'vitrail[onnx]'") from None
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own classes, which derive from several
        why = " ".join(str(error).split())[:160]
        raise CheckpointError(f"{where} is no model that ONNX Runtime runs: {why}", "export it again") from None
    if missing := [name for name in outputs if name not in {one.name for one in session.get_outputs()}]:
        raise CheckpointError(f"{where} has no output {', '.join(missing)[:100]}", "export it again")
    return OnnxEngine(session, outputs)


def build(config: Config) -> OnnxFile:
    return OnnxFile()
