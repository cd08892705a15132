"""`--gpus` and `--nproc`: the command starts its own processes through torch.distributed.run, with the Python that it
runs in and no shell. The processes are the same command, which finds itself started."""

import contextlib
import hashlib
import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

from vitrail.engine.processes.formulas import nearest_batches
from vitrail.errors import UsageError, VitrailError
from vitrail.storage.cache_folder import cache_folder, keep_file

SAVING_S = "120"  # seconds in which processes that were told to stop save; torch's own default is 30
REFUSALS = (2, 3, 4)  # exit codes of what another attempt would be refused for as well
OWN_CODES = (*REFUSALS, 130, 143)  # exit codes that say more than "failed"
LAUNCHES = 64  # refusals that are remembered
MOST = 1024  # processes of one machine: more is a typing error


def is_worker() -> bool:
    """Whether a launcher has started this process as one of several."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def prepare_worker() -> None:
    """Before torch is imported: its warnings about processes that wait for each other, which is routine, are not
    printed."""
    if is_worker():
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def count_processes(gpus: int | None, nproc: int | None, device: str) -> int:
    """How many processes the command has to start; 0 where it is the only one, or was started itself. Errors:
    `UsageError`, for numbers that are not those of the launcher as well."""
    if gpus is not None and nproc is not None:
        raise UsageError("--gpus and --nproc both say how many processes to start", "give one of them")
    count = gpus if gpus is not None else nproc
    if count is None:
        return 0
    flag = "--nproc" if gpus is None else "--gpus"
    if not 1 <= count <= MOST:
        raise UsageError(f"{flag} takes a number of processes from 1 to {MOST}, not {count}", f"{flag} 2")
    if is_worker():
        started = int(os.environ.get("LOCAL_WORLD_SIZE", count))
        if started != count:
            what = f"the launcher has started {started} processes on this machine, and {flag} says {count}"
            raise UsageError(what, f"leave {flag} out: torchrun says how many there are")
        return 0
    if gpus is not None:
        check_gpus(gpus, device)
    return count if count > 1 else 0


def check_gpus(count: int, device: str) -> None:
    """Errors: `UsageError` where the machine has not so many GPUs, or a device was named."""
    if device not in ("auto", "cuda"):
        fix = f"--nproc {count} --device {device}" if device == "cpu" else f"--gpus {count} without --device"
        raise UsageError(f"--gpus {count} uses one GPU a process, and --device says {device}", fix)
    import torch

    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count > there:
        has = f"this machine has {there}" if there else "this machine has none that torch can use"
        fix = f"--gpus {there}" if there else f"--nproc {count} --device cpu trains on processors; vitrail doctor"
        raise UsageError(f"--gpus {count} asks for {count} GPUs, and {has}", fix)


def check_batch(batch: int | None, processes: int) -> None:
    """Errors: `UsageError` where a batch cannot be divided among the processes."""
    if batch and batch % processes:
        raise UsageError(
            f"batch size {batch} is not divisible by {processes} processes",
            f"--batch-size {' or '.join(map(str, nearest_batches(batch, processes)))}, or another number of processes",
        )


def launch(words: list[str], processes: int, restarts: int) -> int:
    """Runs `vitrail train` with these words in so many processes. Returns the exit code: that of the first process that
    failed, 0 where all ended well. A signal to this process is one to all of them: they save first."""
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch
    from torch.distributed.run import config_from_args, parse_args

    threads = max(1, (os.cpu_count() or 1) // processes)
    with tempfile.TemporaryDirectory(prefix="vitrail-") as logs:
        options = ["--nnodes=1", f"--nproc-per-node={processes}", f"--max-restarts={restarts}"]
        options += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", f"--rdzv-id={uuid.uuid4()}"]
        options += ["--local-addr=127.0.0.1", f"--log-dir={logs}"]  # a machine need not know its own name
        defaults = {"OMP_NUM_THREADS": str(threads), "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": SAVING_S}
        if not {"", os.getcwd()} & set(sys.path):  # `python -m` would take files of this folder for modules
            defaults["PYTHONSAFEPATH"] = "1"
        with environment(defaults), silent_logging(), stop_on_usr1():
            config, command, own = config_from_args(parse_args([*options, "-m", "vitrail"]))
            own += [*modules(), "train", *words]  # not parsed by torch, which would take --nproc for its own
            try:
                elastic_launch(config=config, entrypoint=command)(*own)
            except ChildFailedError as error:
                return explain_failures({rank: failure.exitcode for rank, failure in error.failures.items()})
            except SignalException as error:
                return 130 if error.sigval == signal.SIGINT else 143
    return 0


def explain_failures(codes: Mapping[int, int]) -> int:
    """The exit code of a launch whose processes ended with `codes`, by rank. Those that ended by themselves have said
    why; one that was killed could not."""
    if own := [code for code in codes.values() if code in OWN_CODES]:
        return own[0]
    killed = {rank: -code for rank, code in codes.items() if code < 0}
    if len(killed) == len(codes):
        rank, number = next(iter(killed.items()))
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        memory = ": did memory run out?" if name == "SIGKILL" else ""
        sys.stderr.write(
            f"vitrail: process {rank} was ended by {name}{memory}\n"
            "  -> go on with: vitrail train --resume RUN; --max-restarts 3 does so by itself\n"
        )
    return 1


def modules() -> list[str]:
    """The words `--module NAME` and `--debug` of this command, which stand anywhere and are taken before the others."""
    given, words = sys.argv[1:], []
    for word, after in zip(given, [*given[1:], ""], strict=False):
        if word == "--debug" or word.startswith("--module="):
            words.append(word)
        elif word == "--module":
            words += [word, after]
    return words


@contextlib.contextmanager
def environment(defaults: Mapping[str, str]) -> Iterator[None]:
    """Variables that are set where they are not, for as long as this is open."""
    added = {name: value for name, value in defaults.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextlib.contextmanager
def silent_logging() -> Iterator[None]:
    """Without the log of the launcher: the processes say what is wrong themselves, in a few lines."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def stop_on_usr1() -> Iterator[None]:
    """SIGUSR1, which schedulers send ahead of a time limit, stops the processes as SIGTERM does: torch's launcher would
    end by it at once, and leave them."""
    number: Any = vars(signal).get("SIGUSR1")
    if number is None:
        yield
        return

    def stop(received: int, frame: FrameType | None) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(number, stop)
    try:
        yield
    finally:
        signal.signal(number, before)


def is_repeated_refusal(error: VitrailError) -> bool:
    """Whether processes that their launcher has started again are refused as they were before: torchrun starts all of
    them anew whatever the reason, and each time the same would be said. Kept in the cache, by the launcher."""
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "")
    if error.code not in REFUSALS or not attempt or os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") == "0":
        return False
    from vitrail.training.restart import own_launcher

    text = f"{own_launcher()}\n{error.what}"
    path = cache_folder() / "launches" / f"{hashlib.sha256(text.encode(errors='surrogateescape')).hexdigest()}.refusal"
    if attempt != "0" and path.is_file():
        return True
    keep_file(path, b"", LAUNCHES)
    return False


@contextlib.contextmanager
def one_voice() -> Iterator[None]:
    """What is wrong with the words of a command is wrong for all its processes: the first of each machine says it."""
    try:
        yield
    except VitrailError as error:
        error.is_repeated = os.environ.get("LOCAL_RANK", "0") != "0"
        raise
