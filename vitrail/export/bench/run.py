"""Measures what runs a model: latency, throughput, processor time, memory, accuracy; and recommends."""

import platform
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from vitrail.assembly.load import hash_weights, load_bundle
from vitrail.assembly.model import build_preprocess
from vitrail.errors import UsageError, VitrailError
from vitrail.evaluation.subject import SubjectRequest
from vitrail.export.bench.candidates import BASE, Candidate, Missing, Workshop, list_candidates
from vitrail.export.bench.measure import measure_memory, measure_speeds
from vitrail.export.bench.rows import BenchImages, Opened, measure_rows
from vitrail.export.bench.table import Table
from vitrail.export.images import ImageRequest, read_images
from vitrail.export.int8_data import read_int8_images
from vitrail.export.proof import as_inputs, take
from vitrail.export.request import ExportSubject
from vitrail.inference.engine import Engine


@dataclass(frozen=True)
class BenchRequest:
    """only: names of engines, with a precision or without, none for all; batch: images of a timed batch; threads: of
    one call, 0 for as many as cores; count: images evaluated at most; seconds: of timing, about."""

    source: str
    weights: Literal["best", "last"] = "best"
    only: tuple[str, ...] = ()
    batch: int = 16
    threads: int = 0
    count: int = 500
    seconds: float = 20.0
    data: str = ""
    split: str = ""
    keys: Mapping[str, Any] = field(default_factory=dict)

    def is_wanted(self, name: str) -> bool:
        return not self.only or any(name == one or name.startswith(f"{one} ") for one in self.only)


def bench(request: BenchRequest, exports: Path | None, say: Callable[[str], None]) -> Table:
    """The table of a model. exports: where its exported files may be. say: takes a line of progress. Errors:
    `UsageError`, `CheckpointError`, `DataError`."""
    bundle, path = load_bundle(request.source, weights=request.weights)
    if bundle.task.is_generative:
        raise UsageError(f"{request.source} is a generative model: it has no answer to an image", "vitrail sample")
    proof_images = read_images(ImageRequest(request.source, request.data, request.split, request.keys), bundle)
    wanted = SubjectRequest(request.source, request.data, request.split, request.keys)
    images = read_int8_images(wanted, bundle, request.count)
    subject = ExportSubject(bundle, request.source, hash_weights(path), proof_images)
    threads = request.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    pre = build_preprocess(bundle.recipe.input)
    single, batch = (as_inputs(pre, take(proof_images.pixels, n), bundle) for n in (1, request.batch))
    opened: list[Opened] = []
    missing: list[Missing] = []

    def open_and_run(candidate: Candidate) -> Engine:
        engine = candidate.open(threads)
        engine.run(*batch)
        return engine

    with tempfile.TemporaryDirectory() as folder:
        workshop = Workshop(subject, exports, Path(folder), images.calibration, say)
        for one in list_candidates(workshop, request.is_wanted):
            if isinstance(one, Missing):
                missing.append(one)
                continue
            try:
                opened.append(Opened(one, *measure_memory(lambda one=one: open_and_run(one))))  # type: ignore[misc]
            except (VitrailError, RuntimeError) as error:
                if one.name == BASE:
                    raise
                missing.append(Missing(one.name, " ".join(str(error).split())[:200]))
        if request.only and len(opened) == 1 and not request.is_wanted(BASE):
            raise UsageError(f"nothing here is called {' or '.join(request.only)}", describe_missing(missing))
        say(f"timing {len(opened)} engines")
        speeds = measure_speeds({one.candidate.name: one.engine for one in opened}, single, batch, request.seconds)
        rows = measure_rows(opened, speeds, request.batch, bundle, BenchImages(images, proof_images), say)
    return Table(
        tuple(rows), tuple((one.name, one.reason) for one in missing), request.batch, threads, describe_machine(),
        images.held_out.sentence if images.held_out else f"none: {images.unmeasured}", path.name,
    )  # fmt: skip


def describe_missing(missing: list[Missing]) -> str:
    return "; ".join(f"{one.name}: {one.reason}" for one in missing) or "vitrail bench RUN without --only shows all"


def describe_machine() -> str:
    """The processor in a few words."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    return name
