"""A predictor of whatever holds a trained model: a run, a model folder, a file, or the folder of an export."""

import dataclasses
from pathlib import Path
from typing import Literal

import torch

from vitrail import catalog
from vitrail.assembly.load import hash_weights, load_bundle
from vitrail.assembly.precision import inference_precision
from vitrail.engine.precision import PrecisionChoice
from vitrail.errors import CheckpointError, UsageError, choose
from vitrail.inference.exported import INFO, ExportedPredictor, ExportInfo, build_exported, read_info
from vitrail.inference.image_predictor import ImagePredictor
from vitrail.inference.open_engine import TORCH, engine_of, has_bf16, open_file, suffixes_of
from vitrail.inference.predictor import load_predictor
from vitrail.layers.merge import Merge
from vitrail.storage.hashing import hash_file
from vitrail.validation import as_path

EXPORTS = "export"  # of a run: the folder of its exports
MERGED, LABELLED = "-merge-", "-labels"  # in names of exports that merge tokens, or that have classes by their texts:
APART = (MERGED, LABELLED)  # they answer for themselves, not for the run


def load_any(
    source: str | Path,
    engine: str = "",
    device: str = "cpu",
    threads: int = 0,
    weights: Literal["best", "last"] = "best",
    vae: str = "",
    precision: str = "fp32",
    merge: Merge | None = None,
) -> ImagePredictor:
    """A predictor of a run, a model folder, a file, or the folder or file of an export.

    engine: "torch" or one of `inference/engines`, by default torch, and of an export the one for its file. For a run
    and an engine other than torch, the export of the run is used. threads: of engines other than torch; 0: as many as
    cores. precision: fp32, bf16, or auto: by what the processor states and the size of the model; of a file, as far as
    its engine has it. merge: of models in torch, how tokens are merged (`vitrail.layers.merge`).
    Errors: `UsageError`, `CheckpointError`; also where the file is not the one that `model.json` describes.
    """
    folder = export_folder(source)
    known = (TORCH, *catalog.list_modules("inference/engines"))
    if engine:
        choose(engine, known, "engine")
    if folder is None and engine in ("", TORCH):
        return load_predictor(source, device, vae=vae, weights=weights, merge=merge, precision=precision)
    if merge is not None:
        what = "an exported file merges tokens as it was written to"
        raise UsageError(
            what, f"vitrail export {source if folder is None else 'RUN'} --merge {merge} writes one that merges so"
        )
    if folder is not None and engine == TORCH:
        what = f"{source} is an exported file, and torch runs the run that it was made of"
        raise UsageError(what, "leave --engine out: the one for this file is chosen")
    if folder is None:
        folder = find_export(source, engine, weights)
    if device not in ("auto", "cpu"):
        raise UsageError(f"exported files run on the CPU, not on {device}", "leave --device out")
    return open_export(folder, engine, threads, precision)


def is_exported(source: str | Path, engine: str) -> bool:
    """Whether an exported file runs a source on the CPU, whatever else the machine has."""
    return engine not in ("", TORCH) or export_folder(source) is not None


def export_folder(source: str | Path) -> Path | None:
    """The folder of an export that a source names, itself or by a file in it; None where it names none."""
    path = as_path(source)
    folder = path.parent if path.is_file() else path
    return folder if (folder / INFO).is_file() else None


def open_export(folder: Path, engine: str = "", threads: int = 0, precision: str = "fp32") -> ExportedPredictor:
    """The predictor of the folder of an export. Errors: `UsageError`, `CheckpointError`."""
    info, description = read_info(folder)
    check_hash(folder, info)
    choice, is_fp32 = PrecisionChoice("fp32", "the engine computes in what the file holds"), info.precision == "fp32"
    if precision != "auto" or (is_fp32 and has_bf16(engine or engine_of(folder / info.file))):
        choice = inference_precision(precision, description.recipe, torch.device("cpu"))
    opened = open_file(folder / info.file, info, engine, threads, choice.name)
    return dataclasses.replace(build_exported(opened, description, folder), choice=choice)


def check_hash(folder: Path, info: ExportInfo) -> None:
    """Errors: `CheckpointError` where the file is missing, or not the one that was exported."""
    path = folder / info.file
    try:
        found = hash_file(path)
    except OSError as error:
        what = f"{path} cannot be read: {error.strerror or error}"
        raise CheckpointError(what, "vitrail export RUN --overwrite writes it again") from None
    if found != info.sha256:
        raise CheckpointError(
            f"{path} was changed: its SHA-256 is not the one in {INFO}",
            "vitrail export RUN --overwrite writes it again",
        )


def find_export(source: str | Path, engine: str, weights: Literal["best", "last"] = "best") -> Path:
    """The export of a run, or of a model folder or file, that an engine opens: one in fp32 before one in int8, then the
    engine's own format before another. Errors: `UsageError` where there is none, or none of these weights."""
    from vitrail.assembly.run_directory import find_run

    path = as_path(source)
    home = path if path.is_dir() else path.parent
    try:
        home = find_run(source).path
    except CheckpointError:
        if not path.exists():
            raise
    found = []
    for folder in sorted((home / EXPORTS).glob("*")):
        if not any(part in folder.name for part in APART) and (folder / INFO).is_file():
            info = read_info(folder)[0]
            if info.file.endswith(suffixes_of(engine)):
                found.append(((info.precision != "fp32", info.export_format != engine), folder, info))
    if not found:
        raise UsageError(f"{source} has no export that {engine} opens", f"vitrail export {source} --format {engine}")
    digest = hash_weights(load_bundle(source, weights=weights)[1])
    if not (fresh := [one for one in found if one[2].source_sha256 == digest]):
        _, folder, info = found[0]
        flags = f"{' --int8' if info.precision == 'int8' else ''}{' --checkpoint last' if weights == 'last' else ''}"
        raise UsageError(
            f"{folder} is an export of other weights than those of {source}",
            f"vitrail export {source} --format {info.export_format}{flags} --overwrite",
        )
    return min(fresh, key=lambda one: one[0])[1]
