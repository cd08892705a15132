"""Arrays: the weights as an .npz file of numpy."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vitrail.export.contract import ExportFormat, TracedGraph
from vitrail.inference.engine import Engine
from vitrail.inference.exported import ExportInfo
from vitrail.inference.torch_engine import TorchEngine


@dataclass(frozen=True)
class Config:
    pass


class ArraysFormat(ExportFormat):
    file = "weights.npz"

    def __init__(self) -> None:
        self.traced: Any = None

    def check(self) -> None:
        """numpy is always there."""

    def write(self, traced: TracedGraph, metadata: dict[str, str], path: Path) -> None:
        self.traced = traced
        np.savez(path, **{name: t.numpy() for name, t in traced.bundle.model.state_dict().items()})

    def open(self, path: Path, info: ExportInfo) -> Engine:
        graph = copy.deepcopy(self.traced.graph)
        with np.load(path) as arrays:
            graph.model.load_state_dict({name: torch.from_numpy(arrays[name]) for name in arrays.files})
        return TorchEngine(self.traced.bundle, graph=graph)

    def describe(self, info: ExportInfo) -> tuple[str, ...]:
        return (f'numpy.load("{info.file}")',)


def build(config: Config) -> ArraysFormat:
    return ArraysFormat()
