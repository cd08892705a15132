"""The engine that opens an exported file."""

import dataclasses
from pathlib import Path

import numpy as np

from vitrail import catalog
from vitrail.errors import CheckpointError, UsageError
from vitrail.inference.engine import Arrays, Engine
from vitrail.inference.exported import ExportInfo

TORCH = "torch"  # what runs a model that is not exported
UNOPENED = {  # why, by suffix
    ".pt2": ": torch's reader would execute what such a file says, whoever wrote it",
    ".safetensors": " of an export: they are weights alone, and the run has the same ones",
}


class FloatImages(Engine):
    """An engine whose graph takes floats in [0, 1], for uint8 images."""

    def __init__(self, inner: Engine):
        self.inner, self.name = inner, inner.name

    def run(self, images: np.ndarray, sizes: np.ndarray) -> Arrays:
        return self.inner.run(to_floats(images), sizes)


def to_floats(images: np.ndarray) -> np.ndarray:
    """uint8 -> float32 in [0, 1], as a graph of such images takes them."""
    return images.astype(np.float32) / np.float32(255)


def for_images(engine: Engine, info: ExportInfo) -> Engine:
    """The engine for uint8 images, whatever its file takes."""
    return FloatImages(engine) if info.image_type == "float32" else engine


def engine_of(path: Path) -> str:
    """The name of the engine that opens a file, by its suffix; "" where there is none."""
    for name in catalog.list_modules("inference/engines"):
        if path.name.endswith(suffixes_of(name)):
            return name
    return ""


def suffixes_of(engine: str) -> tuple[str, ...]:
    """The suffixes of the files that an engine opens."""
    return tuple(vars(catalog.load_module("inference/engines", engine))["SUFFIXES"])


def has_bf16(engine: str) -> bool:
    """Whether an engine may compute in bf16 what a file holds in fp32."""
    return bool(engine) and "precision" in vars(catalog.find("inference/engines", engine).config)


def open_file(path: Path, info: ExportInfo, engine: str = "", threads: int = 0, precision: str = "fp32") -> Engine:
    """The engine of an exported file. engine: its name, by default the one for files of this kind; precision: "bf16"
    where the engine has it. Errors: `UsageError`, `CheckpointError`."""
    name = engine or engine_of(path)
    if not name:
        what = f"vitrail only writes {path.suffix or path.name} files and runs none{UNOPENED.get(path.suffix, '')}"
        raise UsageError(what, "name the run that it was made of; or vitrail export RUN --format onnx")
    entry = catalog.find("inference/engines", name)
    if not path.name.endswith(suffixes_of(name)):
        what = f"the engine {name} opens {' and '.join(suffixes_of(name))} files, not {path.name}"
        raise UsageError(what, f"leave --engine out: {engine_of(path) or 'nothing'} opens it")
    if not path.is_file():
        raise CheckpointError(f"{path} is missing", "vitrail export RUN writes it")
    config = entry.config
    if precision != "fp32":
        if not has_bf16(name):
            raise UsageError(f"the engine {name} computes in fp32 only", "--engine openvino has bf16")
        config = dataclasses.replace(config, precision=precision)
    opened: Engine = entry.module.build(config).open(path, info.outputs, threads)
    return for_images(opened, info)
