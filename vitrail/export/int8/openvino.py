"""Int8 of OpenVINO by NNCF: post-training quantisation for transformers, calibrated on images."""

import contextlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vitrail.errors import UsageError
from vitrail.export.contract import Quantiser
from vitrail.export.formats.openvino import save_model
from vitrail.export.outliers import BATCHES, describe_kept, find_noisy
from vitrail.export.tracing import silence

SWITCH = "NNCF_CI"  # with it NNCF sends no telemetry; read where it is imported


@dataclass(frozen=True)
class Config:
    """It has no options."""


class OpenVinoQuantiser(Quantiser):
    def check(self) -> None:
        if missing := [name for name in ("openvino", "nncf") if find_spec(name) is None]:
            raise UsageError(f"int8 of OpenVINO needs {' and '.join(missing)}", "pip install 'vitrail[openvino]'")

    def quantise(self, source: Path, target: Path, batches: list[dict[str, Any]], dynamic: bool) -> str:
        import openvino

        nncf = import_nncf()
        model = openvino.Core().read_model(source)
        layers = list_layers(model)
        kept = find_outliers(source, layers, batches)
        with silence(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            quantised = nncf.quantize(
                model, nncf.Dataset(batches), preset=nncf.QuantizationPreset.MIXED,
                model_type=nncf.ModelType.TRANSFORMER, subset_size=len(batches),
                ignored_scope=nncf.IgnoredScope(names=kept) if kept else None,
            )  # fmt: skip
        save_model(quantised, {"precision": "int8"}, target)
        how = "linear and convolution layers in int8, calibrated (NNCF for transformers)"
        return how + describe_kept(len(kept), len(layers))


def list_layers(model: Any) -> list[str]:
    """The names of the layers with weights."""
    return [
        op.get_friendly_name() for op in model.get_ordered_ops()
        if op.get_type_name() in ("MatMul", "Convolution", "GroupConvolution") and has_weights(op)
    ]  # fmt: skip


def has_weights(op: Any) -> bool:
    """Whether the second input of an operation is constant."""
    node = op.input_value(1).get_node()
    while node.get_type_name() in ("Reshape", "Convert", "Transpose"):
        node = node.input_value(0).get_node()
    return bool(node.get_type_name() == "Constant")


def find_outliers(source: Path, layers: list[str], batches: list[dict[str, Any]]) -> list[str]:
    """The layers whose inputs have outliers on the first images."""
    import openvino

    core = openvino.Core()
    model = core.read_model(source)
    by_name = {op.get_friendly_name(): op for op in model.get_ops()}
    inputs = [by_name[name].input_value(0) for name in layers]
    for i, tensor in enumerate(inputs):  # by name: layers may share an input, which becomes one output
        tensor.get_tensor().add_names({f"layer {i}"})
    model.add_outputs(inputs)
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    names = {name: compiled.output(f"layer {i}") for i, name in enumerate(layers)}
    noisy: set[str] = set()
    for batch in batches[:BATCHES]:
        values = compiled(batch)
        noisy |= find_noisy([{name: values[output] for name, output in names.items()}])
    return [name for name in layers if name in noisy]


def import_nncf() -> Any:
    """NNCF, which sends no telemetry."""
    with switched_on():
        import nncf
    return nncf


@contextmanager
def switched_on() -> Iterator[None]:
    before = os.environ.get(SWITCH)
    os.environ[SWITCH] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[SWITCH]
        else:
            os.environ[SWITCH] = before


def build(config: Config) -> OpenVinoQuantiser:
    return OpenVinoQuantiser()
