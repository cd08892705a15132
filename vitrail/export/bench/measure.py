"""Time and memory of engines, in turns, so that what else the machine does slows all of them."""

import contextlib
import ctypes
import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from vitrail.export.proof import Inputs
from vitrail.inference.engine import Engine

T = TypeVar("T")
LEAST_ROUNDS, MOST_ROUNDS, SINGLE = 4, 50, 5  # rounds, and calls of one image in each
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # of Linux


@dataclass
class Speed:
    """Wall seconds of calls with one image, and wall and processor seconds of those with a batch."""

    singles: list[float] = field(default_factory=list)
    batches: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)


def measure_speeds(
    engines: Mapping[str, Engine], single: Inputs, batch: Inputs, seconds: float
) -> dict[str, Speed]:  # fmt: skip
    """Rounds in which each engine has its turn, for about so many seconds of all together."""
    speeds = {name: Speed() for name in engines}
    for engine in engines.values():  # warm-up: the first calls plan memory and choose kernels
        engine.run(*single)
        engine.run(*batch)
    begin = time.monotonic()
    for done in range(MOST_ROUNDS):
        for name, engine in engines.items():
            speed = speeds[name]
            for _ in range(SINGLE):
                start = time.perf_counter()
                engine.run(*single)
                speed.singles.append(time.perf_counter() - start)
            start, used = time.perf_counter(), time.process_time()
            engine.run(*batch)
            speed.batches.append(time.perf_counter() - start)
            speed.processor.append(time.process_time() - used)
        if done + 1 >= LEAST_ROUNDS and time.monotonic() - begin > seconds:
            break
    return speeds


def milliseconds(values: list[float], quantile: float) -> float:
    return 1000 * float(np.quantile(values, quantile))


def measure_memory(action: Callable[[], T]) -> tuple[T, int | None]:
    """What an action returns, and by how many bytes the memory of the process rose at most meanwhile; None where the
    system does not tell."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)  # what earlier engines freed would be taken again without a trace
    before = None
    with contextlib.suppress(OSError):
        RESET.write_text("5")  # the peak begins anew
        before = read_status("VmRSS")
    result = action()
    peak = None if before is None else read_status("VmHWM")
    return result, None if before is None or peak is None else max(0, peak - before)


def read_status(key: str) -> int | None:
    """A number of /proc/self/status in bytes."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{key}:"):
            return 1024 * int(line.split()[1])
    return None
