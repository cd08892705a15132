"""One HTML file that opens from a disk without a network: the model, ONNX Runtime Web and a page to use them."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrail.analysis.overlay import compute_extent
from vitrail.assembly.model import build_preprocess
from vitrail.export.contract import ExportFormat, TracedGraph
from vitrail.export.formats import onnx
from vitrail.export.formats.html.content import collect_examples, collect_facts
from vitrail.export.formats.html.runtime import NOTICE, check_runtime, read_runtime
from vitrail.inference.engine import Engine
from vitrail.inference.exported import ExportInfo
from vitrail.inference.graph import ATTENTION
from vitrail.inference.open_engine import open_file
from vitrail.inference.page.about import AttentionGrid, check_channels, check_output, describe_model
from vitrail.inference.page.assemble import pack, render_with_model
from vitrail.storage.atomic import write_through


@dataclass(frozen=True)
class Config:
    runtime: str = ""  # a folder with ONNX Runtime Web; empty: the user's cache, filled by npm once
    examples: int = 12  # held-out images of the run's data in the page
    opset: int = 18


class HtmlFormat(ExportFormat):
    file = "index.html"
    engines = ("html",)
    any_batch = False
    is_measured = False  # it runs in browsers
    image_types = ("uint8",)
    shows_attention = True

    def __init__(self, config: Config):
        self.config = config

    def check(self) -> None:
        onnx.build(onnx.Config()).check()
        check_runtime(self.config.runtime)

    def write(self, traced: TracedGraph, metadata: dict[str, str], path: Path) -> None:
        bundle = traced.bundle
        pre = build_preprocess(bundle.recipe.input)
        check_output(bundle.task)
        check_channels(pre)
        runtime = read_runtime(self.config.runtime)
        graph = write_graph(traced, metadata, self.config.opset)
        about = describe_model(
            bundle.recipe, bundle.task, bundle.classes, pre,
            facts=collect_facts(bundle, traced.source, metadata, len(graph)),
            attention=attention_grid(traced),
            examples=collect_examples(bundle, traced.source, self.config.examples),
        )  # fmt: skip
        page = render_with_model(about, {"graph": pack(graph), **runtime}, [NOTICE])
        write_through(path, page.encode("utf-8", errors="replace"))

    def open(self, path: Path, info: ExportInfo) -> Engine:
        return open_file(path, info, "html", threads=1)

    def describe(self, info: ExportInfo) -> tuple[str, ...]:
        return (f"open {info.file} in a browser, from the disk or from any server: it needs no network",)


def write_graph(traced: TracedGraph, metadata: dict[str, str], opset: int) -> bytes:
    """The ONNX file of the graph for one image at a time."""
    import onnx as library

    with tempfile.TemporaryDirectory(prefix="vitrail-") as folder:
        path = Path(folder) / "model.onnx"
        onnx.build(onnx.Config(opset)).write(traced, metadata, path)
        model = library.load(path)
    fix_batch(model)
    content: bytes = model.SerializeToString()
    return content


def fix_batch(model: Any) -> None:
    """Sets the first axis of inputs and outputs to one: the runtime then knows every shape beforehand."""
    for value in (*model.graph.input, *model.graph.output):
        if axes := value.type.tensor_type.shape.dim:
            axes[0].dim_value = 1
    del model.graph.value_info[:]


def attention_grid(traced: TracedGraph) -> AttentionGrid | None:
    """The cells of the attention output; None where the graph has none."""
    import torch

    graph = traced.graph
    if ATTENTION not in graph.names:
        return None
    with torch.no_grad():
        values = graph(*traced.inputs)[graph.names.index(ATTENTION)]
    grid = (int(values.shape[1]), int(values.shape[2]))
    return AttentionGrid(grid, compute_extent(traced.bundle.model, graph.size, grid))


def build(config: Config) -> HtmlFormat:
    return HtmlFormat(config)
