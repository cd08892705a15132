"""Which numbers to compute in: found out by trying on this machine, since a flag cannot know it."""

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Precision:
    """fp32, or a 16-bit type for the matrix products; fp16 needs its gradients scaled."""

    name: str
    device: str

    @property
    def scaled(self) -> bool:
        return self.name == "fp16"

    def autocast(self) -> AbstractContextManager:
        if self.name == "fp32":
            return nullcontext()
        return torch.autocast(self.device, torch.bfloat16 if self.name == "bf16" else torch.float16)


@dataclass(frozen=True)
class Probe:
    """What a machine was found to be good at, and how that was found."""

    name: str
    reason: str


def probe(device: torch.device) -> Probe:
    """The fastest safe precision of a device, and why."""
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Probe("bf16", "the GPU computes in bf16")
        return Probe("fp16", "the GPU has no bf16; fp16 with scaled gradients")
    if device.type != "cpu":
        return Probe("fp32", f"the safe choice on {device.type}")
    ratio = cpu_ratio()
    if ratio > 1.3:
        return Probe("bf16", f"bf16 is {ratio:.1f} times faster than fp32 on this CPU")
    return Probe("fp32", f"bf16 is {1 / ratio:.1f} times slower than fp32 on this CPU" if ratio < 0.8 else "bf16 is no faster on this CPU")


def cpu_ratio(width: int = 256) -> float:
    """How many times faster bf16 is than fp32 in the shapes of a transformer, least of three tries each."""
    spent = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = torch.ones(64, width, dtype=dtype), torch.ones(width, width, dtype=dtype)
        a @ b
        tries = []
        for _ in range(3):
            start = time.perf_counter()
            a @ b
            tries.append(time.perf_counter() - start)
        spent[dtype] = min(tries)
    return spent[torch.float32] / spent[torch.bfloat16]


def choose(wanted: str, device: torch.device) -> Probe:
    """`wanted` by name, or the probe's answer to "auto"."""
    return probe(device) if wanted == "auto" else Probe(wanted, "as asked")
