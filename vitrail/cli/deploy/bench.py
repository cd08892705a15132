"""`vitrail bench`: every engine and precision that runs a model here, side by side, and which one to take."""

import sys
from dataclasses import dataclass
from typing import Any

from vitrail.cli.syntax.arguments import read
from vitrail.cli.syntax.keys import keys_of
from vitrail.cli.syntax.verb import AsJson, OfRun, OfWeights, OnData, Verb
from vitrail.errors import UsageError
from vitrail.storage.json_text import to_json


@dataclass
class Bench(OfRun, OfWeights, OnData, AsJson):
    """Measure every engine and precision that runs a model here, side by side: latency, throughput, memory, accuracy.

    Files in the run's folder export/ are used, others are made for the occasion. One of them is recommended.

    vitrail bench runs/photos
    vitrail bench runs/photos --only torch onnx --threads 1
    vitrail bench runs/photos --only 'openvino int8' --count 2000 --json
    """

    only: tuple[str, ...] = ()
    """Engines by name, with a precision or without: onnx 'openvino bf16'. Torch in fp32 is always there."""
    batch: int = 16
    """Images of a batch, for throughput and processor time."""
    threads: int = 0
    """Threads of a call (default: as many as cores)."""
    count: int = 500
    """How many held-out images to evaluate at most."""
    seconds: float = 20.0
    """How long to time all of them together, about."""


def bench(words: list[str]) -> None:
    given, keys = read(VERB, words)
    check(given)
    from vitrail.assembly.run_directory import find_run
    from vitrail.cli.output.bench_table import show_bench
    from vitrail.errors import CheckpointError
    from vitrail.export.bench.run import BenchRequest
    from vitrail.export.bench.run import bench as bench_source
    from vitrail.export.bench.table import FILE
    from vitrail.inference.load_any import EXPORTS
    from vitrail.storage.atomic import write_file
    from vitrail.validation import as_path

    try:
        run: Any = find_run(given.run).path
    except CheckpointError:
        run = None
    home = run or as_path(given.run)
    request = BenchRequest(
        given.run, given.checkpoint, given.only, given.batch, given.threads, given.count, given.seconds, given.data,
        given.split, keys_of("data", keys),
    )  # fmt: skip
    table = bench_source(request, home / EXPORTS, say)
    content = to_json(table.to_dict(), indent=1)
    if run is not None:
        write_file(run / FILE, content.encode())
    if given.json:
        sys.stdout.write(to_json(table.to_dict()) + "\n")
    else:
        show_bench(table, given.run)


def say(line: str) -> None:
    sys.stderr.write(f"vitrail: {line}\n")


def check(given: Bench) -> None:
    """Errors: `UsageError` for what is certainly wrong, before torch is imported."""
    for name, value, least in (("batch", given.batch, 1), ("threads", given.threads, 0), ("count", given.count, 2)):
        if value < least:
            raise UsageError(f"--{name} is {value}", f"--{name} takes a whole number from {least} up")
    if not 0 <= given.seconds < 1e6:
        raise UsageError(f"--seconds is {given.seconds}", "--seconds takes a number of seconds")
    if given.split and not given.data:
        raise UsageError("--split is a part of other data", "--data FOLDER names it")


VERB = Verb("bench", Bench, bench, sections=("data",), changes="what is measured")
