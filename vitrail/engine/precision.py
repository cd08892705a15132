"""The precision to compute in. "auto" is decided by what the processor states that it can do and by the size of the
model, never by a clock: the same command gives the same model on an idle and on a loaded machine."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

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


# Multiply-adds an image from which bf16 is worth its rounding on a CPU that has a unit for it. Times of steps, fp32
# over bf16: with AMX 0.86 at 14 M (ViT nano, 28 to 32 pixels), 1.47 at 1,250 M (ViT tiny, 224 pixels) and more above;
# with AVX512-BF16 1.0 at 12 M, 1.1 at 94 M, 1.3 at 370 M and 1.4 at 1,250 M.
# A stem of 3x3 convolutions in channels-last gains from few: with AVX512-BF16 1.4 at 8 M (ViT pico), 1.5 at 24 M.
BF16_MACS, BF16_MACS_PYRAMID = 300_000_000, 5_000_000
CPU_UNITS = (("amx_bf16", "AMX"), ("avx512_bf16", "AVX512-BF16"))  # in torch's words, and ours; the faster one first


@dataclass(frozen=True)
class PrecisionChoice:
    """A precision, and the reason."""

    name: str
    reason: str


FP32 = PrecisionChoice("fp32", "as set")


def choose_precision(
    wanted: str, device: torch.device, count_macs: Callable[[], int], least_macs: Callable[[], int] = lambda: BF16_MACS
) -> PrecisionChoice:
    """`wanted` by name, or for "auto" the one for a device and a model. `count_macs`: the multiply-adds of one image,
    0 where they are unknown; `least_macs`: those from which bf16 is faster. Both are asked only where they decide."""
    if wanted != "auto":
        return PrecisionChoice(wanted, "as set")
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return PrecisionChoice("bf16", "the GPU computes in bf16")
        return PrecisionChoice("fp16", "the GPU has no bf16; fp16 with scaled gradients")
    if device.type != "cpu":
        return PrecisionChoice("fp32", f"the safe choice on {device.type}")
    unit = bf16_unit()
    if not unit:
        return PrecisionChoice("fp32", "this CPU has neither AMX nor AVX512-BF16")
    macs, least = count_macs(), least_macs()
    size = (
        f"{macs / 1e6:,.0f} million multiply-adds an image" if macs else "an unknown number of multiply-adds an image"
    )
    many = f"{least / 1e6:,.0f} million"
    if macs >= least:
        return PrecisionChoice("bf16", f"this CPU has {unit}, and the model {size} ({many} or more)")
    return PrecisionChoice("fp32", f"the model has {size}; below {many} bf16 is no faster")


def bf16_unit() -> str:
    """The unit of this CPU that multiplies bf16, as torch reports it; "" where there is none."""
    capabilities = cpu_capabilities()
    return next((name for key, name in CPU_UNITS if capabilities.get(key)), "")


def cpu_capabilities() -> Mapping[str, Any]:
    """What torch reports of this CPU, by its names."""
    if "get_capabilities" in vars(torch.cpu):
        return torch.cpu.get_capabilities()
    # the oldest torch that is supported has these two only
    return {"amx_bf16": torch.cpu._is_amx_tile_supported(), "avx512_bf16": torch.cpu._is_avx512_bf16_supported()}
