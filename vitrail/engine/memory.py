"""What is done where memory does not suffice for a step: it is taken again in smaller micro-batches of the same
batch."""

import gc

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

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
