"""The contract of export formats."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from vitrail.assembly.model import ModelBundle
from vitrail.export.tracing import trace
from vitrail.inference.engine import Engine
from vitrail.inference.exported import ExportInfo
from vitrail.inference.graph import InferenceGraph


@dataclass(frozen=True)
class TracedGraph:
    """What a format writes: the graph of a model, and the same as `torch.export` gives it, traced when it is asked
    for."""

    graph: InferenceGraph
    bundle: ModelBundle
    any_size: bool
    source: str = ""  # of the model, as it was typed: a run has images and figures

    @cached_property
    def program(self) -> Any:
        """The `torch.export.ExportedProgram`. Errors: `UsageError` for a model that cannot be traced."""
        return trace(self.graph, self.inputs, self.any_size)

    @cached_property
    def inputs(self) -> tuple[Tensor, ...]:
        """An example of the inputs: two images, and their sizes where the graph takes them."""
        return self.graph.example(self.any_size)


class ExportFormat(ABC):
    """Writes one kind of file."""

    file: str  # its name
    engines: tuple[str, ...] = ()  # names of `inference/engines` that open it
    any_size: bool = False  # whether the format can hold graphs that take any size
    any_batch: bool = True  # and any number of images; else one at a time
    is_measured: bool = True  # by `vitrail bench`: what runs the file here is what runs it elsewhere
    is_graph: bool = True  # whether the file computes anything: the preprocessing is inside then
    image_types: tuple[str, ...] = ("uint8", "float32")
    shows_attention: bool = False  # whether it has the attention output unasked, where a model has a rollout

    @abstractmethod
    def check(self) -> None:
        """Errors: `UsageError` where a package or a file that it needs is missing, with the line that brings it."""

    @abstractmethod
    def write(self, traced: TracedGraph, metadata: dict[str, str], path: Path) -> None:
        """Writes the file, with the metadata in it where the format has a place for them. It may write others beside
        it. Errors: `UsageError` for a model that the format cannot hold."""

    @abstractmethod
    def open(self, path: Path, info: ExportInfo) -> Engine:
        """What runs the file that was written, on one thread, for the proof: nothing but what is in the file."""

    @abstractmethod
    def describe(self, info: ExportInfo) -> tuple[str, ...]:
        """How to use the file, in a few lines."""


class Quantiser(ABC):
    """Makes an int8 file of one that a format has written: `build(config)` of a file of `export/int8`, which is named
    as the format."""

    has_dynamic: bool = False  # whether it can do without images

    @abstractmethod
    def check(self) -> None:
        """Errors: `UsageError` where a package that it needs is missing."""

    @abstractmethod
    def quantise(self, source: Path, target: Path, batches: list[dict[str, Any]], dynamic: bool) -> str:
        """Writes `target`, and returns what was done to it in a few words. batches: inputs of the file (arrays by
        name), by which it is calibrated; dynamic: the scales of activations are found at run time, where it has that.
        """
