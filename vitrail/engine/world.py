"""The processes of a run: one, or many under torchrun. Settings are of the global batch, never of the batch per process."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from vitrail.errors import RunError, UsageError, VitrailError

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """The rank of this process, their number, and its device."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def broadcast(self, values: Tensor) -> None:
        """Overwrites the values on all processes with those of process 0."""
        if self.size > 1:
            dist.broadcast(values, 0)

    def all_gather(self, rows: Tensor) -> Tensor:
        """The rows of all processes, however many each has, in the order of the processes; on every process."""
        if self.size == 1:
            return rows
        counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(self.size)]
        dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
        longest = int(max(counts))
        padded = torch.zeros(longest, *rows.shape[1:], dtype=rows.dtype, device=rows.device)
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        return torch.cat([part[: int(count)] for part, count in zip(parts, counts, strict=True)])

    def assert_equal_across_ranks(self, facts: dict[str, Any]) -> None:
        """Errors: `RunError` where processes have different values, with the first difference."""
        if self.size == 1:
            return
        everyone: list[Any] = [None] * self.size
        dist.all_gather_object(everyone, facts)
        for rank, theirs in enumerate(everyone):
            for key in sorted({*everyone[0], *theirs}):
                if (mine := everyone[0].get(key)) != theirs.get(key):
                    raise RunError(
                        f"process {rank} has {key} = {theirs.get(key)!r}, process 0 has {mine!r}",
                        "start all processes with the same options and versions",
                    )

    def on_rank_zero(self, work: Callable[[], T]) -> T:
        """The result of `work`, run on process 0 alone and broadcast to the others; its errors are raised on all of them."""
        if self.size == 1:
            return work()
        outcome: list[Any] = [None, None]
        if self.is_first:
            try:
                outcome[0] = work()
            except VitrailError as error:
                outcome[1] = error
        dist.broadcast_object_list(outcome)
        if outcome[1] is not None:
            raise outcome[1]
        result: T = outcome[0]
        return result


def join(device: str = "auto", timeout_s: int = 600) -> World:
    """This process among those that torchrun started, or alone. Call `leave` at the end."""
    rank, size, local = (int(os.environ.get(k, d)) for k, d in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))
    chosen = best_device(local) if device == "auto" else named_device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=timedelta(seconds=timeout_s))
    return World(rank, size, chosen)


def leave(world: World) -> None:
    if world.size > 1 and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def best_device(local: int = 0) -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda", local % torch.cuda.device_count())
    return torch.device("cpu")


def named_device(name: str) -> torch.device:
    try:
        chosen = torch.device(name)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first = str(error).splitlines()[0][:120]
        raise UsageError(
            f"there is no device {name!r} here ({first})", "leave --device out to use the best one, or --device cpu"
        ) from None
    return chosen


def single_process(device: torch.device) -> World:
    return World(0, 1, device)
