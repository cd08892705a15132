"""OpenVINO: model.xml with its weights in model.bin, for Intel and AMD processors; bf16 where they have it."""

import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vitrail.errors import RunError, UsageError
from vitrail.export.contract import ExportFormat, TracedGraph
from vitrail.export.formats import onnx
from vitrail.inference.engine import Engine
from vitrail.inference.engines.openvino import WEIGHTS_HASH
from vitrail.inference.exported import ExportInfo
from vitrail.inference.open_engine import open_file
from vitrail.storage.hashing import hash_file


@dataclass(frozen=True)
class Config:
    opset: int = 18  # of the ONNX graph in between


class OpenVinoFormat(ExportFormat):
    file = "model.xml"
    engines = ("openvino",)
    any_size = True

    def __init__(self, config: Config):
        self.config = config

    def check(self) -> None:
        if missing := [name for name in ("openvino", "onnx", "onnxscript") if find_spec(name) is None]:
            raise UsageError(f"OpenVINO needs {' and '.join(missing)}", "pip install 'vitrail[openvino]'")

    def write(self, traced: TracedGraph, metadata: dict[str, str], path: Path) -> None:
        """By way of ONNX: OpenVINO's own converter of torch programs sends telemetry (`openvino_telemetry`)."""
        import openvino

        program = onnx.convert(traced, self.config.opset)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            between = Path(folder) / "model.onnx"
            program.save(between, external_data=True)  # weights beside it: one ONNX file holds 2 GB
            try:
                save_model(openvino.Core().read_model(between), metadata, path)
            except RuntimeError as error:
                why = " ".join(str(error).split())[:160]
                raise RunError(f"OpenVINO cannot read the model: {why}", "--format onnx writes it") from error

    def open(self, path: Path, info: ExportInfo) -> Engine:
        return open_file(path, info, "openvino", threads=1)

    def describe(self, info: ExportInfo) -> tuple[str, ...]:
        return (
            "import openvino",
            f'model = openvino.Core().compile_model("{info.file}", "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}})',
            f'answer = model({onnx.name_inputs(info)})["{info.outputs[0]}"]  # "bf16": faster where the CPU has it',
        )


def save_model(model: Any, metadata: dict[str, str], path: Path) -> None:
    """Writes .xml and .bin with texts of metadata. The .xml has the SHA-256 of the .bin."""
    import openvino

    for key, value in metadata.items():
        model.set_rt_info(value, ["vitrail", key])
    openvino.save_model(model, path, compress_to_fp16=False)
    model.set_rt_info(hash_file(path.with_suffix(".bin")), list(WEIGHTS_HASH))
    openvino.save_model(model, path, compress_to_fp16=False)


def build(config: Config) -> OpenVinoFormat:
    return OpenVinoFormat(config)
