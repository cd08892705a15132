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
        content = path.read_bytes()  # not by its path: weights in other files, which nobody hashed, are not read then
        return open_session(content, outputs, threads, str(path))


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
