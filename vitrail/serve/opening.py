"""A source that a person typed becomes a predictor: in torch, or an exported file with the engine that runs it."""

from pathlib import Path
from typing import Any

from vitrail import catalog
from vitrail.errors import CheckpointError, UsageError, choose
from vitrail.inference.engine import EngineFile
from vitrail.inference.exported import INFO, build_exported, read_info
from vitrail.inference.image_predictor import ImagePredictor
from vitrail.inference.predictor import load_predictor
from vitrail.validation import as_path

AUTO, TORCH = "auto", "torch"


def open_source(source: str, engine: str, device: str, checkpoint: Any, threads: int) -> ImagePredictor:
    """A predictor of a run, a model folder, a file, or a folder that `vitrail export` wrote.

    engine: "auto" (that of an exported folder, else torch), "torch", or the name of an engine, for which a run has a
    folder export/ENGINE. Errors: `UsageError`, `CheckpointError`.
    """
    folder = as_path(source)
    exported = (folder / INFO).is_file()
    names = [TORCH, *(name for name in catalog.list_modules("inference/engines") if name != TORCH)]
    choose(engine, [AUTO, *names], "engine")
    if engine in (AUTO, TORCH) and not exported:
        return load_predictor(source, device, weights=checkpoint)
    if not exported:
        folder = find_export(source, engine)
    info, description = read_info(folder)
    name = engine if engine != AUTO else engine_of(folder / info.file)
    module = catalog.load_module("inference/engines", name)
    opener: EngineFile = module.build(module.Config())
    if Path(info.file).suffix not in vars(module)["SUFFIXES"]:
        raise UsageError(f"{folder} holds a file of format {info.export_format}, which {name} does not run",
                         "leave --engine out")  # fmt: skip
    return build_exported(opener.open(folder / info.file, info.outputs, threads), description, folder)


def find_export(source: str, engine: str) -> Path:
    """The exported folder of a run that an engine opens. Errors: `UsageError` where there is none."""
    from vitrail.assembly.run_directory import find_run

    try:
        root = find_run(source).path
    except CheckpointError:
        root = as_path(source)
    for folder in (root / "export" / engine, *sorted((root / "export").glob(f"{engine}-*"))):
        if (folder / INFO).is_file():
            return folder
    raise UsageError(f"{source} has no export that {engine} runs", f"vitrail export {source} --format {engine}")


def engine_of(file: Path) -> str:
    """The first engine that opens a file. Errors: `CheckpointError`."""
    for name in catalog.list_modules("inference/engines"):
        if file.suffix in vars(catalog.load_module("inference/engines", name)).get("SUFFIXES", ()):
            return name
    raise CheckpointError(f"no engine opens {file}", "vitrail export RUN --format onnx")
