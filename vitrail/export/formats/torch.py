"""PyTorch: a program of `torch.export`, which runs where torch is, without vitrail."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from vitrail.export.contract import ExportFormat, TracedGraph
from vitrail.inference.engine import Engine
from vitrail.inference.exported import ExportInfo
from vitrail.inference.open_engine import open_file

METADATA = "metadata.json"  # name of the texts inside the file


@dataclass(frozen=True)
class Config:
    pass


class TorchFormat(ExportFormat):
    file = "model.pt2"
    engines = ("program",)
    any_size = True

    def __init__(self, config: Config):
        self.config = config

    def check(self) -> None:
        """torch is always there."""

    def write(self, traced: TracedGraph, metadata: dict[str, str], path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own parts
            torch.export.save(traced.program, path, extra_files=metadata)

    def open(self, path: Path, info: ExportInfo) -> Engine:
        return open_file(path, info, "program", threads=1)

    def describe(self, info: ExportInfo) -> tuple[str, ...]:
        return (
            "import torch",
            f'model = torch.export.load("{info.file}").module()',
            f"{', '.join(info.outputs)}, = model({', '.join(info.inputs)})",
        )


def build(config: Config) -> TorchFormat:
    return TorchFormat(config)
