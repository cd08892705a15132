"""The processes of a run: one, or many under torchrun. Settings are of the global batch, never of the batch per
process."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from vitrail.engine.processes.peers import START_S, STEP, WAIT, Peers, is_lost_connection
from vitrail.errors import RunError, UsageError, VitrailError

T = TypeVar("T")
NEVER = timedelta(days=30)  # collectives need no time-out: see `engine/processes/peers.py`
FLIGHT_RECORDER = {"TORCH_FR_BUFFER_SIZE": "2000", "TORCH_NCCL_TRACE_BUFFER_SIZE": "2000"}  # collectives that are kept


@dataclass(frozen=True)
class World:
    """The rank of this process, their number, and its device; `peers`: the others, where there are any."""

    rank: int
    size: int
    device: torch.device
    peers: Peers | None = None

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def per_machine(self) -> int:
        """The processes on this machine, as torchrun says: they share its memory and cores."""
        return min(self.size, int(os.environ.get("LOCAL_WORLD_SIZE", self.size)))

    def blocked(self, doing: str = WAIT) -> AbstractContextManager[None]:
        """While inside, this process cannot go on without the others."""
        return self.peers.blocked(doing) if self.peers else nullcontext()

    @contextmanager
    def in_step(self, done: int) -> Iterator[None]:
        """The training step after `done` steps: it has the time-out of the run."""
        if self.peers:
            self.peers.step = done
        with self.blocked(STEP):
            yield

    @contextmanager
    def writing(self) -> Iterator[None]:
        """While inside, a lost process does not end this one: what it writes is the newest of the run."""
        if self.peers:
            self.peers.is_writing = True
        try:
            yield
        finally:
            if self.peers:
                self.peers.is_writing = False

    def set_timeout(self, seconds: float, records: Path | None = None) -> None:
        """Seconds without a sign of life of another process, or past the longest step, after which the run ends.
        records: the folder for the last collectives of each process, where it ends so."""
        if self.peers:
            self.peers.limit = seconds
            self.peers.records = records

    def meet(self) -> None:
        """Waits for the others outside of any collective: they may be reading a disk."""
        if self.peers:
            self.peers.meet()

    @contextmanager
    def explain_loss(self, fix: str) -> Iterator[None]:
        """Turns what a library raises when another process is gone into `RunError` with its rank, and warns the others
        why this one ends."""
        if self.peers is None:
            yield
            return
        try:
            yield
        except VitrailError as error:
            self.peers.say_last_words(error.what)
            error.is_repeated = not self.peers.is_speaker()
            raise
        except Exception as error:
            if isinstance(error, RuntimeError) and is_lost_connection(error):
                failure: VitrailError = RunError(f"{self.peers.explain_loss()} (this is process {self.rank})", fix)
            else:
                failure = RunError(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}", fix)
                self.peers.say_last_words(failure.what)
                if self.peers.is_speaker():
                    raise
            failure.is_repeated = not self.peers.is_speaker()
            raise failure from None

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.size > 1:
            with self.blocked():
                dist.all_reduce(values)
        return values

    def broadcast(self, values: Tensor) -> None:
        """Overwrites the values on all processes with those of process 0."""
        if self.size > 1:
            with self.blocked():
                dist.broadcast(values, 0)

    def all_gather(self, rows: Tensor) -> Tensor:
        """The rows of all processes, however many each has, in the order of the processes; on every process."""
        if self.size == 1:
            return rows
        self.meet()
        counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(self.size)]
        with self.blocked():
            dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
            longest = int(max(counts))
            padded = torch.zeros(longest, *rows.shape[1:], dtype=rows.dtype, device=rows.device)
            padded[: len(rows)] = rows
            parts = [torch.empty_like(padded) for _ in range(self.size)]
            dist.all_gather(parts, padded)
        return torch.cat([part[: int(count)] for part, count in zip(parts, counts, strict=True)])

    def gather_objects(self, value: T) -> list[T]:
        """The values of all processes, in their order; on every process."""
        if self.size == 1:
            return [value]
        everyone: list[Any] = [None] * self.size
        self.meet()
        with self.blocked():
            dist.all_gather_object(everyone, value)
        return everyone

    def broadcast_tensors(self, work: Callable[[], tuple[dict[str, Tensor], T]]) -> tuple[dict[str, Tensor], T]:
        """The named tensors and the value that `work` returns on process 0, on every process; its errors are raised on
        all of them. The tensors are sent one by one: in one object all would be in memory several times."""
        if self.size == 1:
            return work()
        own: dict[str, Tensor] = {}

        def describe() -> tuple[list[tuple[str, Any, Any]], T]:
            tensors, value = work()
            own.update(tensors)
            return [(name, tuple(t.shape), t.dtype) for name, t in tensors.items()], value

        rows, value = self.on_rank_zero(describe)
        for name, shape, dtype in rows:
            t = own[name] if self.is_first else torch.empty(shape, dtype=dtype)
            sent = t.contiguous().reshape(-1).view(torch.uint8).to(self.device)  # bytes: of any type
            self.broadcast(sent)
            own[name] = t if self.is_first else sent.cpu().view(dtype).reshape(shape)
        return own, value

    def assert_equal_across_ranks(self, facts: dict[str, Any]) -> None:
        """Errors: `RunError` where processes have different values, with the first difference."""
        if self.size == 1:
            return
        everyone = self.gather_objects(facts)
        for rank, theirs in enumerate(everyone):
            for key in sorted({*everyone[0], *theirs}):
                if (mine := everyone[0].get(key)) != theirs.get(key):
                    raise RunError(
                        f"process {rank} has {key} = {theirs.get(key)!r}, process 0 has {mine!r}",
                        "start all processes with the same options and versions",
                    )

    def on_rank_zero(self, work: Callable[[], T]) -> T:
        """The result of `work`, run on process 0 alone and broadcast to the others; its errors are raised on all of
        them. However long it takes: the others wait outside of any collective."""
        if self.size == 1:
            return work()
        outcome: list[Any] = [None, None]
        if self.is_first:
            try:
                outcome[0] = work()
            except VitrailError as error:
                outcome[1] = error
        self.meet()
        with self.blocked():
            dist.broadcast_object_list(outcome)
        if outcome[1] is not None:
            raise outcome[1]
        result: T = outcome[0]
        return result


def join(device: str = "auto", timeout_s: float = 60) -> World:
    """This process among those that torchrun started, or alone. Call `leave` at the end. `timeout_s`: see
    `World.set_timeout`. Errors: `UsageError` where there are fewer GPUs than processes; `RunError`."""
    rank, size, local = (int(os.environ.get(k, d)) for k, d in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))
    own = device == "auto" or (device == "cuda" and torch.cuda.is_available())
    chosen = best_device(local) if own else named_device(device)
    if size > 1:
        check_gpus(chosen, device, int(os.environ.get("LOCAL_WORLD_SIZE", local + 1)))
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
        torch.backends.cudnn.deterministic = True  # the same run gives the same weights
    if size == 1 or dist.is_initialized():
        return World(rank, size, chosen)
    store: Any = next(dist.rendezvous("env://", rank, size, timeout=timedelta(seconds=START_S)))[0]
    # a store may outlive its processes, when torchrun starts them again
    store = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    for name, value in FLIGHT_RECORDER.items():
        os.environ.setdefault(name, value)
    peers = Peers(store, rank, size, timeout_s)
    peers.start()
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=NEVER)
    return World(rank, size, chosen, peers)


def leave(world: World) -> None:
    """Ends the processes together; none leaves while another still writes."""
    if world.size > 1 and dist.is_initialized():
        world.meet()
        dist.barrier()
        if world.peers:
            world.peers.close()
        dist.destroy_process_group()


def check_gpus(chosen: torch.device, asked: str, processes: int) -> None:
    """Errors: `UsageError` where processes of this machine would have to share a GPU, which their library cannot."""
    there = torch.cuda.device_count() if chosen.type == "cuda" else processes
    if asked.startswith("cuda:"):
        there = 1
    if processes > there:
        what = f"there are {processes} processes on this machine, and {there} GPU{'s'[: there != 1]} for them"
        fix = f"start {there} on each machine (--gpus {there}, or torchrun --nproc-per-node {there}); or --device cpu"
        raise UsageError(what, fix)


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
