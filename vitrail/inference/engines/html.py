"""The model in a page of `export --format html`, run by ONNX Runtime on the CPU instead of a browser."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vitrail.errors import CheckpointError
from vitrail.inference.engine import Arrays, Engine, EngineFile, run_singly
from vitrail.inference.engines import onnx
from vitrail.inference.page.assemble import read_block

SUFFIXES = (".html",)


@dataclass(frozen=True)
class Config:
    """It has no settings."""


class PageEngine(Engine):
    """One image after the other, as the page does it."""

    name = "html"

    def __init__(self, inner: Engine):
        self.inner = inner

    def run(self, images: np.ndarray, sizes: np.ndarray) -> Arrays:
        return run_singly(self.inner.run, images, sizes)


class PageFile(EngineFile):
    def open(self, path: Path, outputs: tuple[str, ...], threads: int) -> PageEngine:
        try:
            graph = read_block(path.read_text(encoding="utf-8"), "graph")
        except (OSError, ValueError) as error:
            what = f"{path} is no page with a model in it: {error}"
            raise CheckpointError(what, "vitrail export RUN --format html writes one") from None
        return PageEngine(onnx.open_session(graph, outputs, threads, str(path)))


def build(config: Config) -> PageFile:
    return PageFile()
