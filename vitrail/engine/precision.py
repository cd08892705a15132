"""The precision to compute in: "auto" is measured on this machine."""

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Precision:
    """fp32, or a 16-bit type for the matrix products; fp16 needs gradient scaling."""

    name: str
    device: str

    @property
    def is_scaled(self) -> bool:
        return self.name == "fp16"

    def autocast(self) -> AbstractContextManager[object]:
        if self.name == "fp32":
            return nullcontext()
        return torch.autocast(self.device, torch.bfloat16 if self.name == "bf16" else torch.float16)


@dataclass(frozen=True)
class PrecisionProbe:
    """The precision for a machine, and the reason."""

    name: str
    reason: str


def probe_precision(device: torch.device) -> PrecisionProbe:
    """The fastest safe precision of a device, and why."""
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return PrecisionProbe("bf16", "the GPU computes in bf16")
        return PrecisionProbe("fp16", "the GPU has no bf16; fp16 with scaled gradients")
    if device.type != "cpu":
        return PrecisionProbe("fp32", f"the safe choice on {device.type}")
    ratio = cpu_ratio()
    if ratio > 1.3:
        return PrecisionProbe("bf16", f"bf16 is {ratio:.1f} times faster than fp32 on this CPU")
    return PrecisionProbe(
        "fp32",
        f"bf16 is {1 / ratio:.1f} times slower than fp32 on this CPU"
        if ratio < 0.8
        else "bf16 is no faster on this CPU",
    )


def cpu_ratio(width: int = 256, rounds: int = 7) -> float:
    """How many times faster bf16 is than fp32 in the shapes of a transformer. Each round times both, one after the other; the
    least ratio counts, so that other load on the machine cannot make bf16 look fast."""
    pairs = []
    for dtype in (torch.float32, torch.bfloat16):
        a, b = torch.ones(64, width, dtype=dtype), torch.ones(width, width, dtype=dtype)
        a @ b  # warm-up
        pairs.append((a, b))
    return min(measure_seconds(*pairs[0]) / measure_seconds(*pairs[1]) for _ in range(rounds))


def measure_seconds(a: torch.Tensor, b: torch.Tensor) -> float:
    """Seconds of a product, the least of three runs."""
    tries = []
    for _ in range(3):
        start = time.perf_counter()
        a @ b
        tries.append(time.perf_counter() - start)
    return min(tries)


def choose_precision(wanted: str, device: torch.device) -> PrecisionProbe:
    """`wanted` by name, or the measured one for "auto"."""
    return probe_precision(device) if wanted == "auto" else PrecisionProbe(wanted, "as set")
