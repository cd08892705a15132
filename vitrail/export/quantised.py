"""Int8: a second file out of an exported one, kept where its accuracy is."""

import dataclasses
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitrail import catalog
from vitrail.assembly.model import ModelBundle, build_preprocess
from vitrail.errors import RunError, UsageError
from vitrail.evaluation.difference import Change
from vitrail.evaluation.subject import SubjectRequest
from vitrail.export.contract import ExportFormat, Quantiser
from vitrail.export.int8_data import Int8Images, read_int8_images
from vitrail.export.proof import as_inputs
from vitrail.export.request import ExportRequest, ExportResult, ExportSubject
from vitrail.export.side_by_side import compare_accuracy, count_changed, time_files
from vitrail.export.sidecars import write_sidecars
from vitrail.inference.exported import ExportInfo
from vitrail.inference.open_engine import to_floats

MOST_LOSS = 0.005  # of the metric that ranks models
BATCH = 4  # images of a calibration batch, and of a timed one
GAIN = 1.05  # times as fast as the fp32 file, below which int8 is not worth it
TEMPORARY = ".int8"


@dataclass(frozen=True)
class Int8Report:
    """What was quantised, on which images, and what it changed. change: None where no annotated image can be read;
    changed: answers that are others than in fp32, of so many `answers`. Milliseconds are processor time of an image."""

    method: str
    calibration: str
    evaluated: str
    change: Change | None
    answers: int
    changed: int
    fp32_ms: float
    int8_ms: float
    fp32_bytes: int
    int8_bytes: int

    @property
    def loss(self) -> float:
        return 0.0 if self.change is None else -self.change.value

    def to_dict(self) -> dict[str, Any]:
        change = None if self.change is None else self.change._asdict()
        return {**asdict(self), "change": change}

    def sentences(self) -> tuple[str, ...]:
        """In words: what was done, what it costs, what it gains."""
        times = self.fp32_ms / max(1e-9, self.int8_ms)
        speed = f"{self.int8_ms:.2f} ms an image in int8, {self.fp32_ms:.2f} ms in fp32"
        how = f"(processor time, one thread, batch {BATCH}, measured now)"
        gain = f"int8 is {times:.2f} times as fast: {speed} {how}" if times >= GAIN else (
            f"int8 gains no speed here: {speed} {how}; small models spend their time elsewhere")  # fmt: skip
        accuracy = f"accuracy was not measured: {self.evaluated}" if self.change is None else (
            f"on {self.evaluated}: {self.change.sentence()}")  # fmt: skip
        return (
            f"int8: {self.method}; {self.calibration}; {self.fp32_bytes / 1e6:.2f} MB -> "
            f"{self.int8_bytes / 1e6:.2f} MB; {self.changed:,} of {self.answers:,} answers differ",
            accuracy,
            gain,
        )


def check_quantiser(request: ExportRequest) -> None:
    """Errors: `UsageError` for int8 of a format that has none, or where a package that it needs is missing."""
    if not request.int8:
        if request.dynamic:
            raise UsageError("--dynamic is a way to int8", "--int8 --dynamic")
        return
    quantiser = find_quantiser(request.format)
    if request.dynamic and not quantiser.has_dynamic:
        raise UsageError(f"the format {request.format} has no dynamic int8", "leave --dynamic out, or --format onnx")
    quantiser.check()


def find_quantiser(name: str) -> Quantiser:
    """The quantiser of a format. Errors: `UsageError`."""
    known = catalog.list_modules("export/int8")
    if name not in known:
        raise UsageError(f"the format {name} has no int8", f"--int8 works with {' and '.join(known)}")
    entry = catalog.find("export/int8", name)
    quantiser: Quantiser = entry.module.build(entry.config)
    return quantiser


def read_quantising(subject: ExportSubject, request: ExportRequest) -> Int8Images:
    """The images that calibrate and measure. Errors: `UsageError` where there are none and int8 of the format needs
    them, and those of data that was given."""
    wanted = SubjectRequest(subject.source, request.data, request.split, request.keys)
    images = read_int8_images(wanted, subject.bundle)
    if not images.calibration and not has_dynamic(request.format):
        raise UsageError(
            f"int8 of {request.format} is calibrated on images, and {images.sentence}",
            "--data FOLDER names some; or --format onnx, which needs none",
        )
    return images


def quantise_export(
    subject: ExportSubject, chosen: ExportFormat, request: ExportRequest, result: ExportResult, images: Int8Images
) -> ExportResult:
    """The export in `result.folder`, which has its proof, with an int8 file in place of its own. Errors: `RunError`
    where it is less accurate than it may be, unless `request.force`."""
    bundle, folder, info = subject.bundle, result.folder, result.info
    target = folder / TEMPORARY / info.file
    target.parent.mkdir()
    dynamic = request.dynamic or not images.calibration
    batches = as_batches(images.calibration or list(subject.images.pixels), bundle, info)
    method = find_quantiser(request.format).quantise(folder / info.file, target, batches, dynamic)
    engines = chosen.open(folder / info.file, info), chosen.open(target, info)
    change = None if images.held_out is None else compare_accuracy(*engines, bundle, images.held_out.split)
    answers, changed = count_changed(*engines, bundle, subject.images)
    timing = time_files(*engines, bundle, subject.images, BATCH)
    report = Int8Report(
        method, describe_calibration(request, images),
        images.held_out.sentence if images.held_out else images.unmeasured, change, answers, changed,
        timing.torch_ms, timing.file_ms, measure_files(folder), measure_files(target.parent),
    )  # fmt: skip
    if report.loss > MOST_LOSS and not request.force:
        assert change is not None
        raise RunError(
            f"int8 loses too much: {change.sentence()}; at most {100 * MOST_LOSS:.1f} points; nothing was written",
            f"{'' if dynamic or not has_dynamic(request.format) else '--dynamic may lose less; '}"
            "--force keeps it all the same",
        )
    del engines  # open files of OpenVINO are mapped into memory
    for file in target.parent.iterdir():
        os.replace(file, folder / file.name)
    shutil.rmtree(target.parent)
    info = dataclasses.replace(info, precision="int8")
    info = write_sidecars(folder, bundle, info, result.proof, {"int8": report.to_dict()})
    return result._replace(info=info, notes=(*result.notes, *report.sentences()), int8=report.to_dict())


def has_dynamic(name: str) -> bool:
    return find_quantiser(name).has_dynamic


def describe_calibration(request: ExportRequest, images: Int8Images) -> str:
    if not images.calibration:
        return f"not calibrated: {images.sentence}"
    return f"{'outliers looked for' if request.dynamic else 'calibrated'} on {images.sentence}"


def as_batches(pixels: list[np.ndarray], bundle: ModelBundle, info: ExportInfo) -> list[dict[str, Any]]:
    """Images as inputs of the file."""
    pre, batches = build_preprocess(bundle.recipe.input), []
    for start in range(0, len(pixels), BATCH):
        images, sizes = as_inputs(pre, pixels[start : start + BATCH], bundle)
        given = images if info.image_type == "uint8" else to_floats(images)
        batches.append({"images": given, "sizes": sizes} if "sizes" in info.inputs else {"images": given})
    return batches


def measure_files(folder: Path) -> int:
    """Bytes of the model's files in a folder: without subfolders and texts of ours."""
    return sum(one.stat().st_size for one in folder.iterdir() if one.is_file() and one.suffix != ".json")
