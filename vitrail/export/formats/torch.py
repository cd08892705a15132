"""PyTorch: a program of `torch.export`, which runs where torch is, without vitrail."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vitrail.export.contract import ExportFormat, TracedGraph
from vitrail.inference.engine import Arrays, Engine
from vitrail.inference.exported import ExportInfo
from vitrail.inference.open_engine import for_images


@dataclass(frozen=True)
class Config:
    pass


class ProgramEngine(Engine):
    """Runs a program that was just written. It is no engine of the catalogue: torch's reader executes what a file says
    (pickles, and text that sympy evaluates), so vitrail opens none that may come from elsewhere."""

    name = "torch program"

    def __init__(self, module: Any, info: ExportInfo):
        self.module, self.info = module, info

    @torch.inference_mode()
    def run(self, images: np.ndarray, sizes: np.ndarray) -> Arrays:
        given = (torch.from_numpy(images), torch.from_numpy(sizes))[: len(self.info.inputs)]
        return {name: v.numpy() for name, v in zip(self.info.outputs, self.module(*given), strict=True)}


class TorchFormat(ExportFormat):
    file = "model.pt2"
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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(path)
        return for_images(ProgramEngine(program.module(), info), info)

    def describe(self, info: ExportInfo) -> tuple[str, ...]:
        return (
            "import torch",
            f'model = torch.export.load("{info.file}").module()',
            f"{', '.join(info.outputs)}, = model({', '.join(info.inputs)})",
        )


def build(config: Config) -> TorchFormat:
    return TorchFormat(config)
