"""The memory that a step needs and has: micro-batches that fit are chosen before the first step, and where memory does
not suffice all the same a step is taken again in smaller micro-batches of the same batch.

The choice depends on what a machine or device has in all, never on what happens to be free: the same machine chooses
the same.
"""

import gc
import os
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

USABLE_CPU, USABLE_GPU = 0.5, 0.85  # shares of all memory: the system, workers and images need some as well
WORDS = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory, of a device or of the machine, does not suffice."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in WORDS)


def running_statistics(model: nn.Module) -> list[Tensor]:
    """The statistics that a forward pass in training mode changes, those of batch norms."""
    return [b for m in model.modules() if isinstance(m, _BatchNorm) for b in m.buffers(recurse=False)]


def release_memory(device: torch.device) -> None:
    """Gives back what a failed step has left."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def peak_memory(device: torch.device) -> str:
    """The largest amount that was allocated, for messages; "" where it is not counted."""
    if device.type != "cuda":
        return ""
    return f"; at most {torch.cuda.max_memory_allocated(device) / 2**30:,.1f} GiB of the GPU were in use"


class StepMemory(NamedTuple):
    """Bytes that a training step takes: whatever its images, and for each of them."""

    fixed: int
    each: int


def fit_images(images: int, step: StepMemory, budget: int, least: int) -> int:
    """The largest size of equal micro-batches of so many images that `budget` bytes hold, a multiple of `least`, and at
    least that: batch norm and mixing need two.

    >>> fit_images(128, StepMemory(100, 10), 1000, 1), fit_images(128, StepMemory(100, 10), 2000, 1)
    (64, 128)
    """
    most = max(least, (budget - step.fixed) // max(1, step.each))
    for parts in range(-(-images // most), images + 1):
        size = -(-images // parts // least) * least
        if size <= most:
            return min(size, images)
    return min(least, images)


def usable_memory(device: torch.device) -> int:
    """The bytes that a run may use of the device, or of the machine; 0 where a system does not tell."""
    if device.type == "cuda":
        return int(USABLE_GPU * torch.cuda.get_device_properties(device).total_memory)
    return int(USABLE_CPU * machine_memory()) if device.type == "cpu" else 0


def machine_memory() -> int:
    """All memory of the machine, or of the container or job that the process is in, in bytes; 0 where a system does not
    tell."""
    limits = group_limits(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"))
    sysconf = vars(os).get("sysconf")  # Windows has none
    if sysconf is not None:
        try:
            limits.append(int(sysconf("SC_PAGE_SIZE") * sysconf("SC_PHYS_PAGES")))
        except (ValueError, OSError):
            return 0
    return min(limits, default=0)


def group_limits(root: Path, membership: Path) -> list[int]:
    """The limits in bytes of the control groups of a process and of all groups above them, in versions 1 and 2: a
    container sees its own as the root, a job of a cluster is some folders below. membership: its /proc/PID/cgroup."""
    folders = {root: "memory.max", root / "memory": "memory.limit_in_bytes"}
    try:
        lines = [line.split(":", 2) for line in membership.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError):
        lines = []
    for top, file in tuple(folders.items()):
        kind = "" if top == root else "memory"
        for group in (Path(line[2].lstrip("/")) for line in lines if len(line) == 3 and kind in line[1].split(",")):
            folders.update({top / group: file, **{top / above: file for above in group.parents}})
    limits = []
    for folder, file in folders.items():
        try:
            limits.append(int((folder / file).read_text(encoding="ascii")))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return limits
