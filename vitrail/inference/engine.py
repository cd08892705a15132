"""The contract of engines, and the one that fits a file."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor

Arrays = Mapping[str, np.ndarray]


class Engine(ABC):
    """Runs an `InferenceGraph`, in torch or as exported. It may be called from several threads."""

    name: str  # as --engine takes it, with the precision where it is not fp32: "torch bf16"

    @abstractmethod
    def run(self, images: np.ndarray, sizes: np.ndarray) -> Arrays:
        """uint8 images [B C H W] and their sizes without padding, int64 [B 2] -> the graph's outputs by name."""

    @final
    def predict_windows(self, output: str) -> Callable[[Tensor, Tensor], Tensor]:
        """One output as windows are predicted: uint8 [B C h w], sizes [B 2] -> [B ...]."""
        return lambda images, sizes: torch.from_numpy(np.asarray(self.run(images.numpy(), sizes.numpy())[output]))


def run_singly(run: Callable[[np.ndarray, np.ndarray], Arrays], images: np.ndarray, sizes: np.ndarray) -> Arrays:
    """`run` of one image after the other, for files that hold no batch."""
    rows = [run(images[i : i + 1], sizes[i : i + 1]) for i in range(len(images))]
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


class EngineFile(ABC):
    """How an engine opens exported files; what `build` of its module returns."""

    @abstractmethod
    def open(self, path: Path, outputs: tuple[str, ...], threads: int) -> Engine:
        """A file's engine. threads: of one call; 0: as many as cores. Errors: `UsageError` where its package is not
        installed, `CheckpointError` for a file that is none."""
