"""ExecuTorch: model.pte for phones and boards, with XNNPACK; one image at a time."""

import contextlib
import io
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch

from vitrail.errors import UsageError
from vitrail.export.contract import ExportFormat, TracedGraph
from vitrail.export.tracing import first_line, silence
from vitrail.inference.engine import Engine
from vitrail.inference.exported import ExportInfo
from vitrail.inference.open_engine import open_file


@dataclass(frozen=True)
class Config:
    """It has no options."""


class ExecutorchFormat(ExportFormat):
    file = "model.pte"
    engines = ("executorch",)
    any_batch = False

    def check(self) -> None:
        if find_spec("executorch") is None:
            raise UsageError("ExecuTorch is not installed", "pip install 'vitrail[executorch]'")

    def write(self, traced: TracedGraph, metadata: dict[str, str], path: Path) -> None:
        """Metadata are methods without inputs. Traced for one image: with a free batch 1.5 plans memory for that of the
        example, and fails when it runs another."""
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        try:
            with torch.no_grad(), silence(), contextlib.redirect_stdout(io.StringIO()):
                single = tuple(one[:1] for one in traced.inputs)
                program = torch.export.export(traced.graph, single, strict=False)
                lowered = to_edge_transform_and_lower(
                    program, partitioner=[XnnpackPartitioner()], constant_methods={**metadata}
                )
                content = lowered.to_executorch().buffer
        except Exception as error:  # of many classes
            what = f"ExecuTorch cannot hold the model: {first_line(error)}"
            raise UsageError(what, "--format onnx writes it") from error
        path.write_bytes(content)

    def open(self, path: Path, info: ExportInfo) -> Engine:
        return open_file(path, info, "executorch", threads=1)

    def describe(self, info: ExportInfo) -> tuple[str, ...]:
        return (
            "from executorch.runtime import Runtime",
            f'method = Runtime.get().load_program("{info.file}").load_method("forward")',
            f"{', '.join(info.outputs)}, = method.execute([{', '.join(info.inputs)}])  # tensors, a batch of one image",
        )


def build(config: Config) -> ExecutorchFormat:
    return ExecutorchFormat()
