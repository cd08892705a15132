"""ExecuTorch: files for phones and boards (.pte), here on the processor."""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vitrail.errors import CheckpointError, UsageError
from vitrail.inference.engine import Arrays, Engine, EngineFile, run_singly

SUFFIXES = (".pte",)


@dataclass(frozen=True)
class Config:
    """It has no settings."""


class ExecutorchEngine(Engine):
    """A method of an ExecuTorch program, which takes one image at a time. It computes in memory of its own, so that
    threads take turns."""

    name = "executorch"

    def __init__(self, program: Any, outputs: tuple[str, ...]):
        self.program, self.method, self.outputs = program, program.load_method("forward"), outputs
        self.takes_sizes = self.method.metadata.num_inputs() > 1
        self.turn = threading.Lock()

    def run(self, images: np.ndarray, sizes: np.ndarray) -> Arrays:
        return run_singly(self.run_one, images, sizes)

    def run_one(self, image: np.ndarray, size: np.ndarray) -> Arrays:
        given = [torch.from_numpy(np.ascontiguousarray(one)) for one in (image, size)]
        with self.turn:
            values = self.method.execute(given if self.takes_sizes else given[:1])
            copies = [value.numpy().copy() for value in values]  # of memory that the next call writes to
        return dict(zip(self.outputs, copies, strict=True))


class ExecutorchFile(EngineFile):
    def open(self, path: Path, outputs: tuple[str, ...], threads: int) -> ExecutorchEngine:
        """threads: it has its own pool."""
        try:
            from executorch.runtime import Runtime
        except ImportError:
            raise UsageError("ExecuTorch is not installed", "pip install 'vitrail[executorch]'") from None
        try:
            return ExecutorchEngine(Runtime.get().load_program(path), outputs)
        except (RuntimeError, ValueError, OSError) as error:
            why = " ".join(str(error).split())[:160]
            raise CheckpointError(f"{path} is no model that ExecuTorch runs: {why}", "export it again") from None


def build(config: Config) -> ExecutorchFile:
    return ExecutorchFile()
