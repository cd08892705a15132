"""Int8 of the model in a page, by ONNX Runtime: the page becomes a third as large."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrail.export.contract import Quantiser
from vitrail.export.int8 import onnx
from vitrail.inference.page.assemble import Fact, pack, read_block, replace_block


@dataclass(frozen=True)
class Config(onnx.Config):
    """As of ONNX."""


class PageQuantiser(Quantiser):
    has_dynamic = True

    def __init__(self, config: Config):
        self.inner = onnx.build(config)

    def check(self) -> None:
        self.inner.check()

    def quantise(self, source: Path, target: Path, batches: list[dict[str, Any]], dynamic: bool) -> str:
        page = source.read_text(encoding="utf-8")
        with tempfile.TemporaryDirectory(prefix="vitrail-") as folder:
            before, after = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
            before.write_bytes(read_block(page, "graph"))
            method = self.inner.quantise(before, after, list(single_images(batches)), dynamic)
            graph = after.read_bytes()
        fact = Fact("Numbers of the model", "int8", f"{len(graph) / 1e6:.1f} MB; the accuracy was measured in float32")
        target.write_text(replace_block(page, "graph", pack(graph), fact), encoding="utf-8")
        return method


def single_images(batches: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Batches of one image, as the page's graph takes them."""
    for batch in batches:
        for i in range(len(batch["images"])):
            yield {name: values[i : i + 1] for name, values in batch.items()}


def build(config: Config) -> PageQuantiser:
    return PageQuantiser(config)
