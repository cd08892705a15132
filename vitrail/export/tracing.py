"""Tracing: the graph of a model as a program of `torch.export`, with a batch of any length."""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from vitrail.errors import UsageError
from vitrail.inference.graph import InferenceGraph

LARGEST = 4096  # pixels along a side of an image whose size is free


def trace(graph: InferenceGraph, inputs: tuple[Tensor, ...], any_size: bool) -> Any:
    """The `torch.export.ExportedProgram` of a graph on the CPU.

    `torch.export` raises where the program would not hold for every batch, or with `any_size` for every height and
    width. `torch.onnx.export` alone would write a file for the sizes of the example and report success.
    Errors: `UsageError` with the reason.
    """
    batch = torch.export.Dim("batch", min=1)
    of_images: dict[int, Any] = {0: batch}
    if any_size:
        least = graph.least_size
        of_images |= {2: torch.export.Dim("height", min=least, max=LARGEST),
                      3: torch.export.Dim("width", min=least, max=LARGEST)}  # fmt: skip
    shapes = (of_images, {0: batch})[: len(inputs)]
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own parts
            return torch.export.export(graph, inputs, dynamic_shapes=shapes, strict=False)
    except Exception as error:  # of many classes: whatever the model does that cannot be traced
        raise UsageError(
            f"the model cannot be traced for every batch{' and size' if any_size else ''}: {first_line(error)}",
            "it cannot be exported as a graph; vitrail export RUN --format safetensors writes its weights",
        ) from error


def first_line(error: Exception) -> str:
    """What an error of a library says, in a line: the first cause of it, without what colours a terminal."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = re.sub(r"\x1b\[[0-9;]*m", "", str(cause)).splitlines()
    why = next((line.strip() for line in lines if line.strip()), type(cause).__name__)
    return why[:200]


@contextmanager
def silence() -> Iterator[None]:
    """Without the advice that libraries log and warn of while they write a file."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
