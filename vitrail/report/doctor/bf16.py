"""How fast this CPU is in bf16, measured: advice, which decides nothing. What decides is `engine/precision.py`."""

import time

import torch


def measure_bf16_speed(width: int = 256, rounds: int = 7) -> float:
    """How many times faster bf16 is than fp32 in matrix products of a small transformer, on this CPU now. Each round
    times both, one after the other; the median ratio counts."""
    pairs = []
    for dtype in (torch.float32, torch.bfloat16):
        a, b = torch.ones(64, width, dtype=dtype), torch.ones(width, width, dtype=dtype)
        a @ b  # warm-up
        pairs.append((a, b))
    return sorted(measure_seconds(*pairs[0]) / measure_seconds(*pairs[1]) for _ in range(rounds))[rounds // 2]


def measure_seconds(a: torch.Tensor, b: torch.Tensor) -> float:
    """Seconds of a product, the least of three runs."""
    tries = []
    for _ in range(3):
        start = time.perf_counter()
        a @ b
        tries.append(time.perf_counter() - start)
    return min(tries)
