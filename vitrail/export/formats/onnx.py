"""ONNX: one file for ONNX Runtime, OpenVINO and others."""

import contextlib
import io
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from vitrail.errors import RunError, UsageError
from vitrail.export.contract import ExportFormat, TracedGraph
from vitrail.export.tracing import first_line, silence
from vitrail.inference.engine import Engine
from vitrail.inference.exported import ExportInfo
from vitrail.inference.open_engine import open_file

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
MOST_BYTES = 2**31 - 2**24  # of one file: protobuf's limit, with room for the graph


@dataclass(frozen=True)
class Config:
    opset: int = 18  # the lowest that has every operation, for runtimes of 2023 on


class OnnxFormat(ExportFormat):
    file = "model.onnx"
    engines = ("onnx", "openvino")
    any_size = True

    def __init__(self, config: Config):
        self.config = config

    def check(self) -> None:
        if missing := [name for name in PACKAGES if find_spec(name) is None]:
            raise UsageError(f"ONNX needs {' and '.join(missing)}", "pip install 'vitrail[onnx]'")

    def write(self, traced: TracedGraph, metadata: dict[str, str], path: Path) -> None:
        size = sum(t.numel() * t.element_size() for t in traced.graph.state_dict().values())
        if size > MOST_BYTES:
            raise UsageError(
                f"the weights are {size / 1e9:.1f} GB, and one ONNX file holds 2 GB",
                "--format openvino has no such limit, nor have torch and safetensors",
            )
        onnx_program = convert(traced, self.config.opset)
        onnx_program.model.producer_name = "vitrail"
        onnx_program.model.metadata_props.update(metadata)
        onnx_program.save(path, external_data=False)
        check_shapes(path, traced)

    def open(self, path: Path, info: ExportInfo) -> Engine:
        return open_file(path, info, "onnx", threads=1)

    def describe(self, info: ExportInfo) -> tuple[str, ...]:
        return (
            "import onnxruntime",
            f'session = onnxruntime.InferenceSession("{info.file}")',
            f"{', '.join(info.outputs)}, = session.run(None, {name_inputs(info)})",
        )


def name_inputs(info: ExportInfo) -> str:
    """The inputs by name, as Python writes them."""
    return "{" + ", ".join(f'"{name}": {name}' for name in info.inputs) + "}"


def convert(traced: TracedGraph, opset: int) -> Any:
    """The program as `torch.onnx.ONNXProgram`. Errors: `UsageError` for an operation that ONNX has not."""
    try:
        with torch.no_grad(), silence(), contextlib.redirect_stdout(io.StringIO()):
            return torch.onnx.export(
                traced.program, (), dynamo=True, opset_version=opset, verbose=False,
                input_names=list(traced.graph.input_names), output_names=list(traced.graph.names),
            )  # fmt: skip
    except UsageError:
        raise
    except Exception as error:
        what = f"the model cannot be written as ONNX: {first_line(error)}"
        raise UsageError(what, "--format torch writes it") from error


def check_shapes(path: Path, traced: TracedGraph) -> None:
    """Reads the written file. Errors: `RunError` where an axis that should be free is not."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    free = (0, 2, 3) if traced.any_size else (0,)
    for value in graph.input:
        axes = value.type.tensor_type.shape.dim
        if fixed := [i for i in free if i < len(axes) and not axes[i].dim_param]:
            what = f"{path.name} came out with a fixed axis {fixed[0]} of {value.name} ({axes[fixed[0]].dim_value})"
            raise RunError(what, "--format torch writes a file without that limit")
    names = [value.name for value in graph.output]
    if names != list(traced.graph.names):
        raise RunError(f"{path.name} came out with the outputs {', '.join(names)}", "--format torch")


def build(config: Config) -> OnnxFormat:
    return OnnxFormat(config)
