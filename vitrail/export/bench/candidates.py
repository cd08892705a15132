"""What runs a model on this machine: torch, and each exported file by its engine, in each precision that there is."""

import copy
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrail import catalog
from vitrail.assembly.model import ModelBundle
from vitrail.engine.precision import bf16_unit
from vitrail.errors import VitrailError
from vitrail.export.exporter import export_model, find_format
from vitrail.export.quantised import as_batches, find_quantiser, measure_files
from vitrail.export.request import ExportRequest, ExportSubject
from vitrail.inference.engine import Engine
from vitrail.inference.exported import INFO, ExportInfo, read_info
from vitrail.inference.graph import ATTENTION
from vitrail.inference.load_any import check_hash
from vitrail.inference.open_engine import TORCH, open_file
from vitrail.inference.torch_engine import TorchEngine

BASE = f"{TORCH} fp32"


@dataclass(frozen=True)
class Candidate:
    """Something that runs the model. command: what makes its file, "" for torch."""

    name: str  # engine and precision
    open: Callable[[int], Engine]  # with so many threads
    file_bytes: int
    command: str = ""


@dataclass(frozen=True)
class Missing:
    """What cannot run here, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Workshop:
    """Where files are found or made. exports: the folder of the exports of the run, or None; calibration: uint8
    [H W C] each."""

    subject: ExportSubject
    exports: Path | None
    temporary: Path
    calibration: list[Any]
    say: Callable[[str], None]


@dataclass(frozen=True)
class ExportedFile:
    path: Path
    info: ExportInfo


def list_candidates(workshop: Workshop, is_wanted: Callable[[str], bool]) -> Iterator[Candidate | Missing]:
    """Torch first, whatever is wanted: the others are measured against it. Then a file after the other, each found or
    made when it is its turn."""
    yield from list_torch(workshop.subject.bundle, is_wanted)
    for name in catalog.list_modules("export/formats"):
        chosen = find_format(name)
        if name not in chosen.engines or not chosen.is_measured or not any(is_wanted(one) for one in names_of(name)):
            continue
        try:
            chosen.check()
            file = find_file(workshop, name, "fp32") or make_file(workshop, name)
            yield from of_file(file, name, is_wanted)
            if name in catalog.list_modules("export/int8"):
                yield from list_int8(workshop, file, name, is_wanted)
        except VitrailError as error:
            yield Missing(name, error.what if not error.fix else f"{error.what} ({error.fix})")


def list_torch(bundle: ModelBundle, is_wanted: Callable[[str], bool]) -> Iterator[Candidate]:
    """Each with weights of its own, so that its memory can be seen."""
    size = sum(t.numel() * t.element_size() for t in bundle.model.state_dict().values())

    def opener(precision: str) -> Callable[[int], Engine]:
        return lambda threads: TorchEngine(
            dataclasses.replace(bundle, model=copy.deepcopy(bundle.model)), precision
        )  # fmt: skip

    yield Candidate(BASE, opener("fp32"), size)
    if bf16_unit() and is_wanted(f"{TORCH} bf16"):
        yield Candidate(f"{TORCH} bf16", opener("bf16"), size)


def names_of(name: str) -> list[str]:
    """The candidates that a format may give."""
    return [f"{name} fp32", f"{name} bf16", f"{name} int8", f"{name} int8 dynamic"]


def of_file(file: ExportedFile, name: str, is_wanted: Callable[[str], bool]) -> Iterator[Candidate]:
    """A file in fp32, and in bf16 where its engine and the processor have it."""
    config = catalog.find("inference/engines", name).config
    precisions = ["fp32", "bf16"] if "precision" in vars(config) and bf16_unit() else ["fp32"]
    for precision in precisions:
        if is_wanted(f"{name} {precision}"):
            yield candidate(file, name, precision, f"--format {name}")


def candidate(file: ExportedFile, engine: str, precision: str, flags: str, label: str = "") -> Candidate:
    def open_it(threads: int) -> Engine:
        return open_file(file.path, file.info, engine, threads, precision)

    return Candidate(f"{engine} {label or precision}", open_it, measure_files(file.path.parent), flags)


def list_int8(
    workshop: Workshop, file: ExportedFile, name: str, is_wanted: Callable[[str], bool]
) -> Iterator[Candidate | Missing]:
    """Calibrated on the training images, and with scales found at run time where the format has that."""
    quantiser, bundle = find_quantiser(name), workshop.subject.bundle
    quantiser.check()
    batches = as_batches(workshop.calibration, bundle, file.info)
    if is_wanted(f"{name} int8"):
        found = find_file(workshop, name, "int8")
        if found is None and batches:
            found = make_int8(workshop, file, f"{name}-int8", batches)
        flags = f"--format {name} --int8"
        yield candidate(found, name, "fp32", flags, "int8") if found else Missing(
            f"{name} int8", "no training image of the run can be read to calibrate it"
        )  # fmt: skip
    if quantiser.has_dynamic and is_wanted(f"{name} int8 dynamic"):
        dynamic = make_int8(workshop, file, f"{name}-int8-dynamic", batches, dynamic=True)
        yield candidate(dynamic, name, "fp32", f"--format {name} --int8 --dynamic", "int8 dynamic")


def find_file(workshop: Workshop, name: str, precision: str) -> ExportedFile | None:
    """The export of the run, where it is of these weights, takes bytes and has no further output."""
    folder = None if workshop.exports is None else workshop.exports / (name if precision == "fp32" else f"{name}-int8")
    if folder is None or not (folder / INFO).is_file():
        return None
    try:
        info, _ = read_info(folder)
        check_hash(folder, info)
    except VitrailError:
        return None
    is_ours = info.source_sha256 == workshop.subject.sha256 and info.export_format == name
    is_plain = info.image_type == "uint8" and ATTENTION not in info.outputs
    if not is_ours or info.precision != precision or not is_plain:
        return None
    return ExportedFile(folder / info.file, info)


def make_file(workshop: Workshop, name: str) -> ExportedFile:
    """An export with its proof. Errors: `UsageError`, `RunError`."""
    workshop.say(f"exporting {name}")
    folder = workshop.temporary / name
    result = export_model(workshop.subject, find_format(name), ExportRequest(name), folder)
    return ExportedFile(folder / result.info.file, result.info)


def make_int8(
    workshop: Workshop, file: ExportedFile, folder: str, batches: list[dict[str, Any]], dynamic: bool = False
) -> ExportedFile:
    workshop.say(f"making {folder.replace('-', ' ')}")
    target = workshop.temporary / folder / file.info.file
    target.parent.mkdir()
    find_quantiser(file.info.export_format).quantise(file.path, target, batches, dynamic)
    return ExportedFile(target, dataclasses.replace(file.info, precision="int8"))
