"""Int8 of ONNX by ONNX Runtime: linear layers, and with images for calibration convolutions too."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vitrail.errors import UsageError
from vitrail.export.contract import Quantiser
from vitrail.export.outliers import BATCHES, describe_kept, find_noisy
from vitrail.export.tracing import silence

LINEAR = ("MatMul", "Gemm")


@dataclass(frozen=True)
class Config:
    per_channel: bool = True  # a scale for each output of a layer, calibrated


class OnnxQuantiser(Quantiser):
    has_dynamic = True

    def __init__(self, config: Config):
        self.config = config

    def check(self) -> None:
        if missing := [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]:
            raise UsageError(f"int8 of ONNX needs {' and '.join(missing)}", "pip install 'vitrail[onnx]'")

    def quantise(self, source: Path, target: Path, batches: list[dict[str, Any]], dynamic: bool) -> str:
        """Products of two activations, softmax, norms and the preprocessing stay as they are: they are few, or lose
        most. Dynamic, a convolution stays too: one whose scales are found at run time is slower than fp32."""
        from onnxruntime import quantization

        layers, products = list_layers(source)
        kept = find_outliers(source, layers, batches) if batches else []
        kinds = {"per_channel": self.config.per_channel, "weight_type": quantization.QuantType.QInt8}
        excluded = [*products, *kept]
        with silence():
            if dynamic:
                quantization.quantize_dynamic(
                    source, target, op_types_to_quantize=list(LINEAR), nodes_to_exclude=excluded, **kinds
                )
            else:
                quantization.quantize_static(
                    source, target, Batches(batches), quant_format=quantization.QuantFormat.QDQ,
                    op_types_to_quantize=[*LINEAR, "Conv"], nodes_to_exclude=excluded,
                    activation_type=quantization.QuantType.QUInt8, **kinds,
                )  # fmt: skip
        copy_metadata(source, target)
        return f"{describe_layers(dynamic)}{describe_kept(len(kept), len(layers))}"


def describe_layers(dynamic: bool) -> str:
    if dynamic:
        return "linear layers in int8, scales of their inputs found at run time (ONNX Runtime, dynamic)"
    return "linear and convolution layers in int8, calibrated (ONNX Runtime, QDQ)"


def list_layers(source: Path) -> tuple[dict[str, str], list[str]]:
    """The names of the layers with weights, each with the name of its input; and those of products without."""
    import onnx

    graph = onnx.load(source).graph
    weights = {one.name for one in graph.initializer}
    nodes = [node for node in graph.node if node.op_type in (*LINEAR, "Conv")]
    layers = {node.name: node.input[0] for node in nodes if node.input[1] in weights}
    return layers, [node.name for node in nodes if node.name not in layers]


def find_outliers(source: Path, layers: dict[str, str], batches: list[dict[str, Any]]) -> list[str]:
    """The layers whose inputs have outliers on the first images."""
    import onnx
    import onnxruntime

    model, names = onnx.load(source), list(dict.fromkeys(layers.values()))
    there = {value.name for value in (*model.graph.input, *model.graph.output)}
    names = [name for name in names if name not in there]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    noisy = find_noisy(dict(zip(names, session.run(names, batch), strict=True)) for batch in batches[:BATCHES])
    return [name for name, of in layers.items() if of in noisy]


class Batches:
    """Inputs as ONNX Runtime's calibration asks for them: `CalibrationDataReader` by its methods."""

    def __init__(self, batches: list[dict[str, Any]]):
        self.batches: Iterator[dict[str, Any]] = iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        return next(self.batches, None)


def copy_metadata(source: Path, target: Path) -> None:
    """The texts in one ONNX file into another, which says that it is int8."""
    import onnx

    quantised = onnx.load(target)
    texts = {one.key: one.value for one in onnx.load(source).metadata_props}
    onnx.helper.set_model_props(quantised, {**texts, "precision": "int8"})
    onnx.save(quantised, target)


def build(config: Config) -> OnnxQuantiser:
    return OnnxQuantiser(config)
