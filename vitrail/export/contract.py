"""The contract of export formats."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vitrail.inference.exported import ExportInfo
from vitrail.inference.graph import InferenceGraph


@dataclass(frozen=True)
class TracedGraph:
    """A graph as `torch.export` gives it, with which a format writes its file."""

    graph: InferenceGraph
    program: Any  # torch.export.ExportedProgram
    inputs: tuple[Tensor, ...]  # an example of them: images, and sizes where the graph takes them
    any_size: bool


class ExportFormat(ABC):
    """Writes one kind of file."""

    file: str  # its name
    engines: tuple[str, ...]  # names of `inference/engines` that open it; the first one proves it
    any_size: bool  # whether the format can hold graphs that take any size

    @abstractmethod
    def check(self) -> None:
        """Errors: `UsageError` where a package or a file that it needs is missing, with the line that brings it."""

    @abstractmethod
    def write(self, traced: TracedGraph, metadata: dict[str, str], path: Path) -> None:
        """Writes the file, with the metadata in it where the format has a place for them."""

    @abstractmethod
    def describe(self, info: ExportInfo) -> tuple[str, ...]:
        """How to use the file, in a few lines."""
