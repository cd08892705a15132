"""Batches of images by step, with or without worker processes: the same pixels either way."""

import atexit
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from vitrail.data.dataset import Split
from vitrail.data.sampling import Keys, SampleStream
from vitrail.data.transforms.base import Transform
from vitrail.errors import RunError, VitrailError


class LoadedBatch(NamedTuple):
    """Images as read, uint8 [B C h w], or latents float32 [B c h w]; their labels or annotations; and their keys."""

    images: Tensor
    labels: Any  # class indices [B], classes [B K], masks [B h w], or `DetectionTargets`
    keys: Keys


@dataclass(frozen=True)
class Fetcher:
    """Reads the images of given keys; runs in the workers, to which it is pickled."""

    split: Split
    transform: Transform

    def __call__(self, keys: Keys) -> LoadedBatch:
        return LoadedBatch(*self.transform.load(self.split, keys), keys)


@dataclass(frozen=True)
class TrainRequests:
    """The keys that process `rank` of `world` trains on from step `start` to `stop`."""

    stream: SampleStream
    start: int
    stop: int
    rank: int
    world: int

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: int) -> Keys:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.stream.keys(self.start + index).shard(self.rank, self.world)


class Requests:
    """A data set for torch's loader: item i is the batch that a `Fetcher` reads for request i."""

    def __init__(self, fetch: Fetcher, requests: list[Keys] | TrainRequests):
        self.fetch, self.requests = fetch, requests

    def __len__(self) -> int:
        return len(self.requests)

    def __getitem__(self, index: int) -> LoadedBatch | VitrailError:
        try:
            return self.fetch(self.requests[index])
        except VitrailError as error:
            return error  # torch would wrap it in a traceback


def load_batches(fetch: Fetcher, requests: list[Keys] | TrainRequests, workers: int) -> Iterator[LoadedBatch]:
    """The batches of `requests`, in order. Errors: those of reading an image; `RunError` where a worker dies."""
    if workers == 0:
        return (fetch(requests[i]) for i in range(len(requests)))
    return load_from_workers(fetch, requests, workers)


def load_from_workers(fetch: Fetcher, requests: list[Keys] | TrainRequests, workers: int) -> Iterator[LoadedBatch]:
    loader: DataLoader = DataLoader(
        Requests(fetch, requests),  # type: ignore[arg-type]
        batch_size=None,
        shuffle=False,
        num_workers=workers,
        prefetch_factor=2,
        collate_fn=identity_collate,
        worker_init_fn=init_worker,
        multiprocessing_context="forkserver" if torch.cuda.is_available() else None,
        pin_memory=torch.cuda.is_available(),
    )
    other_children = multiprocessing.active_children()
    batches = iter(loader)
    atexit.register(stop_workers, [child for child in multiprocessing.active_children() if child not in other_children])
    with raise_on_worker_death():
        for loaded in release_batches(batches):
            if isinstance(loaded, VitrailError):
                raise loaded
            yield loaded


def release_batches(batches: Iterator[LoadedBatch | VitrailError]) -> Iterator[LoadedBatch | VitrailError]:
    """Yields what workers send. A worker that dies between announcing and sending a batch breaks the pipe."""
    try:
        yield from batches
    except (ConnectionError, EOFError):
        time.sleep(1)  # torch raises for the same death when the kernel reports it: here, not in later code
        raise RuntimeError("DataLoader worker broke the connection") from None


@contextmanager
def raise_on_worker_death() -> Iterator[None]:
    """Turns torch's exception for a dead worker, raised wherever the main process is, into `RunError`."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        fix = "is memory or /dev/shm full? --workers 0 reads without workers"
        raise RunError("a worker process that reads images died", fix) from None


def stop_workers(workers: list[BaseProcess]) -> None:
    """Kills workers when the main process exits: a worker still alive would mistake Python's single SIGTERM for a job
    manager's and ignore it, and Python would wait for it for ever."""
    alive = [worker for worker in workers if worker.is_alive()]
    if alive:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # otherwise torch raises for each
    for worker in alive:
        worker.kill()


def identity_collate(item: Any) -> Any:
    """Leaves a batch as it is; torch's default would turn the arrays of the keys into tensors."""
    return item


def init_worker(worker: int) -> None:
    """A worker ignores signals, which the parent handles, and uses one thread, so workers do not compete for cores.

    Job managers send SIGTERM to all processes at once: the parent still needs the batches of its last step. A second
    SIGTERM, such as the parent's own at the end, ends the worker.
    """

    def ignore_first(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, ignore_first)
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    torch.set_num_threads(1)


def evaluation_requests(split: Split, indices: np.ndarray, batch: int) -> list[Keys]:
    """Keys of the images at `indices` in batches, each image once."""
    batches = [indices[i : i + batch] for i in range(0, len(indices), batch)]
    return [Keys(np.zeros_like(part), part) for part in batches]


def default_workers(split: Split, augmented: bool, processes: int) -> int:
    """0 for images in memory without per-image work; otherwise by the number of CPU cores."""
    if split.array is not None and not augmented:
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, max(1, cores // processes // (1 if torch.cuda.is_available() else 2)))
