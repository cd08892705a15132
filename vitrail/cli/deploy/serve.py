"""`vitrail serve`: trained models over HTTP."""

import os
import re
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from vitrail.cli.syntax.arguments import merging, read
from vitrail.cli.syntax.verb import Merging, OfWeights, OnDevice, Verb
from vitrail.errors import UsageError
from vitrail.storage.printable import printable
from vitrail.validation import as_path

MEGABYTE, MEGAPIXEL = 2**20, 1_000_000
LONGEST_NAME = 100


@dataclass
class Serve(OfWeights, OnDevice, Merging):
    """Serve trained models over HTTP: predictions, attention, a page, metrics.

    vitrail serve runs/photos
    vitrail serve cats=runs/a dogs=runs/b --engine onnx --workers 2 --threads 1
    vitrail serve runs/photos --host 0.0.0.0 --token "$TOKEN"
    """

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")]
    """Runs, model folders or exported folders; NAME=RUN names one."""
    host: str = "127.0.0.1"
    """Address to listen on; any but this machine's own needs a token."""
    port: int = 8000
    """Port to listen on; 0: any that is free."""
    token: str = ""
    """What clients have to send, or several with commas; better in the variable VITRAIL_TOKEN."""
    quota: float = 0.0
    """Predictions a second for a token (default: any)."""
    engine: str = "auto"
    """torch, onnx or openvino (default: that of an exported folder, else torch)."""
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """bf16 is faster on processors that have it; auto: there, if the model is large."""
    workers: int = 1
    """Processes that hold the models."""
    threads: int = 0
    """Threads of a worker (default: the cores divided by the workers)."""
    batch_size: int = 0
    """Images at a time (default: 1 on a CPU, 16 on a GPU)."""
    queue: int = 64
    """Requests that wait; beyond them 503 at once."""
    timeout: float = 30.0
    """Seconds in which an answer has to be there; then 504."""
    max_body: float = 10.0
    """Largest request in MB."""
    max_pixels: float = 25.0
    """Largest image in megapixels."""
    grace: float = 30.0
    """Seconds that requests have to finish in, once the server is stopped."""
    quiet: bool = False
    """Print no line for each request."""


def serve(words: list[str]) -> int:
    given, _ = read(VERB, words)
    check(given)
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        raise UsageError(
            "vitrail serve needs packages that are not installed", "pip install 'vitrail[serve]'"
        ) from None
    from vitrail.inference.page.assemble import render_for_server
    from vitrail.serve.run import log_to_stderr
    from vitrail.serve.run import serve as run_server

    log_to_stderr(given.quiet)
    settings = settings_of(given)
    return run_server(settings, render_for_server(settings.models[0].name).encode(), announce)


def check(given: Serve) -> None:
    """Errors: `UsageError` for what is certainly wrong, before anything is opened."""
    if not given.runs:
        raise UsageError("no model was given", "vitrail serve RUN")
    counts = {"workers": given.workers, "queue": given.queue}
    for name, count in counts.items():
        if not 1 <= count <= 10_000:
            raise UsageError(f"--{name} is {count}", f"--{name} takes a whole number from 1 up")
    for name, count in (("threads", given.threads), ("batch-size", given.batch_size)):
        if not 0 <= count <= 10_000:
            raise UsageError(f"--{name} is {count}", f"--{name} takes a whole number from 1 up")
    numbers = {
        "timeout": given.timeout,
        "max-body": given.max_body,
        "max-pixels": given.max_pixels,
        "grace": given.grace,
    }
    for name, number in numbers.items():
        if not 0 < number < 1e6:
            raise UsageError(f"--{name} is {number:g}", f"--{name} takes a number above 0")
    if not 0 <= given.quota < 1e6:
        raise UsageError(f"--quota is {given.quota:g}", "--quota takes a number above 0")
    if not 0 <= given.port < 65536:
        raise UsageError(f"--port is {given.port}", "ports are 0 to 65535")


def settings_of(given: Serve) -> Any:
    from vitrail.serve.settings import Limits, Settings

    limits = Limits(
        body=int(given.max_body * MEGABYTE), pixels=int(given.max_pixels * MEGAPIXEL), queue=given.queue,
        timeout=given.timeout,
    )  # fmt: skip
    return Settings(
        models=name_models(given.runs), host=given.host, port=given.port,
        token=given.token or os.environ.get("VITRAIL_TOKEN", ""), quota=given.quota, engine=given.engine,
        device=given.device, precision=given.precision,
        checkpoint=given.checkpoint, threads=given.threads, workers=given.workers, batch=given.batch_size,
        grace=given.grace, modules=imported_modules(), limits=limits, merge=merging(given.merge),
    )  # fmt: skip


def name_models(runs: tuple[str, ...]) -> Any:
    """The names of the models: those that were given, or of the last folder of their paths. Errors: `UsageError`."""
    from vitrail.serve.settings import ModelSource

    models: list[ModelSource] = []
    for text in runs:
        name, equals, source = text.partition("=")
        named = bool(equals and source and re.fullmatch(r"[\w.-]+", name)) and not as_path(text).exists()
        if not named:
            path = Path(text)
            name, source = (path.stem if path.suffix in (".safetensors", ".onnx") else path.resolve().name), text
        name = printable(name)[:LONGEST_NAME] or "model"
        if name in [one.name for one in models]:
            raise UsageError(f"two models are called {name}", f"name them: vitrail serve {name}-1=RUN {name}-2=RUN")
        models.append(ModelSource(name, source))
    return tuple(models)


def imported_modules() -> tuple[str, ...]:
    """The user's modules that --module has imported, for the workers."""
    words = sys.argv
    following = [after for word, after in pairwise(words) if word == "--module"]
    return (*following, *(word.partition("=")[2] for word in words if word.startswith("--module=")))


def announce(models: list[dict[str, Any]], address: str) -> None:
    names = ", ".join(f"{row['name']} ({row['model']}, {row['output']})" for row in models)
    sys.stdout.write(f"serving {printable(names)} at {address}  (Ctrl-C stops)\n")
    sys.stdout.flush()


VERB = Verb("serve", Serve, serve)
