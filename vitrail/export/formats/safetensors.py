"""Safetensors: the weights and a config.json, under timm's names where the family has them.

A plain ViT in timm's names is what `timm.create_model("local-dir:FOLDER", pretrained=True)` reads, with its own
preprocessing in the config; other files say in config.json whose names they have.
"""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitrail.assembly.model import ModelBundle, build_preprocess, describe_bundle
from vitrail.contracts import trunk_of
from vitrail.errors import CheckpointError
from vitrail.export.contract import ExportFormat, TracedGraph
from vitrail.export.timm_config import timm_config
from vitrail.inference.engine import Engine
from vitrail.inference.exported import ExportInfo
from vitrail.inference.torch_engine import TorchEngine
from vitrail.storage.atomic import write_through
from vitrail.storage.json_text import to_json
from vitrail.weights.load import full_name
from vitrail.weights.published import family_of, load_table
from vitrail.weights.rules import convert, revert

CONFIG = "config.json"
OWN, TIMM = "vitrail", "timm"


@dataclass(frozen=True)
class Config:
    names: str = ""  # a source of the family's table, "vitrail" for our own; by default timm's where they fit


class SafetensorsFormat(ExportFormat):
    file = "model.safetensors"
    image_types = ("uint8",)
    is_graph = False

    def __init__(self, config: Config):
        self.config = config
        self.traced: TracedGraph | None = None
        self.source = OWN
        self.is_timm = False

    def check(self) -> None:
        """safetensors is always there."""

    def write(self, traced: TracedGraph, metadata: dict[str, str], path: Path) -> None:
        from safetensors.torch import save_file

        bundle, self.traced = traced.bundle, traced
        tensors, self.source = rename(bundle, self.config.names)
        about = timm_config(bundle) if self.source.partition(":")[0] == TIMM else None
        self.is_timm = about is not None
        own = {"names": self.source, "vitrail": describe_bundle(bundle), "input": describe_pixels(bundle)}
        save_file(tensors, path, {**metadata, "format": "pt", "names": self.source, "normalised": "outside the model"})
        write_through(path.with_name(CONFIG), to_json({**(about or {}), **own}, indent=1).encode())

    def open(self, path: Path, info: ExportInfo) -> Engine:
        """torch with the weights of the file, their names turned back."""
        from safetensors.torch import load_file

        assert self.traced is not None
        bundle, graph = self.traced.bundle, copy.deepcopy(self.traced.graph)
        graph.model.load_state_dict(restore(load_file(path), bundle, self.source))
        return TorchEngine(bundle, graph=graph)

    def describe(self, info: ExportInfo) -> tuple[str, ...]:
        if self.is_timm:
            return ("import timm", 'model = timm.create_model("local-dir:FOLDER", pretrained=True)')
        return (
            f"# names of tensors: {self.source}",
            "from safetensors.torch import load_file",
            f'weights = load_file("{info.file}")',
        )


def rename(bundle: ModelBundle, wanted: str) -> tuple[dict[str, Tensor], str]:
    """The weights under the names of a source, and the source: that which was asked for, else the first of timm's that
    gives every tensor a name and back, else our own."""
    state = {name: t.contiguous() for name, t in bundle.model.state_dict().items()}
    table = load_table(family_of(bundle.model)).sources
    known = [name for name in table if name.partition(":")[0] == TIMM]
    for source in [wanted] if wanted else known:
        if source not in table:
            break
        try:
            theirs = revert({name.removeprefix("backbone."): t for name, t in state.items()}, table[source])
            back = restore(theirs, bundle, source)
        except (CheckpointError, RuntimeError, ValueError):
            continue
        if back.keys() == state.keys() and all(torch.equal(back[name], t) for name, t in state.items()):
            return {name: t.clone() for name, t in theirs.items()}, source
    return {name: t.clone() for name, t in state.items()}, OWN


def restore(tensors: Mapping[str, Tensor], bundle: ModelBundle, source: str) -> dict[str, Tensor]:
    """Tensors under the names of a source -> under ours."""
    if source == OWN:
        return dict(tensors)
    converted = convert(tensors, load_table(family_of(bundle.model)).sources[source]).tensors
    return {full_name(name, bundle.model): t for name, t in converted.items()}


def describe_pixels(bundle: ModelBundle) -> dict[str, Any]:
    """The preprocessing, all of which is outside."""
    pre = build_preprocess(bundle.recipe.input)
    return {
        "size": list(pre.size), "channels": pre.channels, "mean": list(pre.mean), "std": list(pre.std),
        "resize_mode": pre.resize_mode, "interpolation": pre.interpolation, "crop_ratio": pre.crop_ratio,
        "trunk": json.loads(to_json(vars(trunk_of(bundle.model).config))),
    }  # fmt: skip


def build(config: Config) -> SafetensorsFormat:
    return SafetensorsFormat(config)
