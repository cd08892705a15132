"""OpenVINO on the CPU: its own files (.xml, with the weights in a .bin beside it), and ONNX."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vitrail.errors import CheckpointError, UsageError
from vitrail.inference.engine import Arrays, Engine, EngineFile
from vitrail.inference.engines.onnx import read_whole
from vitrail.storage.hashing import hash_file

SUFFIXES = (".xml", ".onnx")
WEIGHTS_HASH = ("vitrail", "weights_sha256")  # where a .xml has the SHA-256 of its .bin
HINTS = {"fp32": "f32", "bf16": "bf16"}  # by precision, in OpenVINO's words


@dataclass(frozen=True)
class Config:
    precision: Literal["fp32", "bf16"] = "fp32"  # OpenVINO's own default is bf16 where the processor has it


class OpenVinoEngine(Engine):
    """A compiled model. Each call takes a request of its own, so that threads do not wait for each other."""

    def __init__(self, compiled: Any, outputs: tuple[str, ...], precision: str):
        self.name = "openvino" if precision == "fp32" else f"openvino {precision}"
        self.compiled, self.outputs = compiled, outputs
        self.inputs = [name for name in ("images", "sizes") if any(name in one.names for one in compiled.inputs)]
        self.idle: list[Any] = []  # requests; append and pop of a list are atomic

    def run(self, images: np.ndarray, sizes: np.ndarray) -> Arrays:
        given = {"images": images, "sizes": sizes}
        try:
            request = self.idle.pop()
        except IndexError:
            request = self.compiled.create_infer_request()
        request.infer({name: np.ascontiguousarray(given[name]) for name in self.inputs})
        values = {name: np.array(request.get_tensor(name).data) for name in self.outputs}  # copies: it is used again
        self.idle.append(request)
        return values


class OpenVinoFile(EngineFile):
    def __init__(self, config: Config):
        self.config = config

    def open(self, path: Path, outputs: tuple[str, ...], threads: int) -> OpenVinoEngine:
        try:
            import openvino
        except ImportError:
            raise UsageError("OpenVINO is not installed", "pip install 'vitrail[openvino]'") from None
        settings = {"INFERENCE_PRECISION_HINT": HINTS[self.config.precision], "PERFORMANCE_HINT": "LATENCY"}
        if threads:
            settings["INFERENCE_NUM_THREADS"] = str(threads)
        core = openvino.Core()
        core.set_property({"ENABLE_MMAP": False})  # a file that is overwritten would change a model that is served
        try:
            model = core.read_model(read_whole(path) if path.suffix == ".onnx" else path)
            if path.suffix != ".onnx":
                check_weights(model, path)
            compiled = core.compile_model(model, "CPU", settings)
        except CheckpointError:
            raise
        except Exception as error:  # RuntimeError, and others of its parts
            why = " ".join(str(error).split())[:160]
            raise CheckpointError(f"{path} is no model that OpenVINO runs: {why}", "export it again") from None
        return OpenVinoEngine(compiled, outputs, self.config.precision)


def check_weights(model: Any, path: Path) -> None:
    """Errors: `CheckpointError` where the .bin beside a .xml is not the one that was exported with it."""
    weights = path.with_suffix(".bin")
    if not model.has_rt_info(list(WEIGHTS_HASH)):
        raise CheckpointError(f"{path} does not say which weights are its own", "export it again")
    if hash_file(weights) != model.get_rt_info(list(WEIGHTS_HASH)).astype(str):
        raise CheckpointError(f"{weights} was changed: its SHA-256 is not the one in {path.name}", "export it again")


def build(config: Config) -> OpenVinoFile:
    return OpenVinoFile(config)
