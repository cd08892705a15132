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
    """Images as they come from a reader, uint8 [B C h w] or latents float32 [B c h w], what is true of them, and which they are."""

    images: Tensor
    labels: Any  # class indices [B], classes [B K], masks [B h w], or `DetectionTargets`
    keys: Keys


@dataclass(frozen=True)
class Fetcher:
    """Reads the images of some keys: what a worker runs. Sent to workers whole."""

    split: Split
    transform: Transform

    def __call__(self, keys: Keys) -> LoadedBatch:
        return LoadedBatch(*self.transform.load(self.split, keys), keys)


@dataclass(frozen=True)
class TrainRequests:
    """What process `rank` of `world` trains on from step `start` to `stop`."""

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
    """Asks a `Fetcher` for lists of keys, one item a batch, in the form that torch's loader wants."""

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
    others = multiprocessing.active_children()
    batches = iter(loader)
    atexit.register(stop_workers, [child for child in multiprocessing.active_children() if child not in others])
    with raise_on_worker_death():
        for loaded in release_batches(batches):
            if isinstance(loaded, VitrailError):
                raise loaded
            yield loaded


def release_batches(batches: Iterator[LoadedBatch | VitrailError]) -> Iterator[LoadedBatch | VitrailError]:
    """What workers send. One that dies after it has announced a batch and before it was fetched breaks the connection."""
    try:
        yield from batches
    except (ConnectionError, EOFError):
        time.sleep(
            1
        )  # torch raises for the same death when the kernel reports it: here, not in the middle of what follows
        raise RuntimeError("DataLoader worker broke the connection") from None


@contextmanager
def raise_on_worker_death() -> Iterator[None]:
    """A worker that dies makes torch raise in whatever the main process is doing just then. Errors: `RunError`."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        fix = "was memory short, or /dev/shm full? --workers 0 reads without workers"
        raise RunError("a worker process that reads images died", fix) from None


def stop_workers(workers: list[BaseProcess]) -> None:
    """At the very end of the main process: a worker that was not told to leave would take Python's one SIGTERM for a job
    manager's, and Python would wait for it for ever."""
    left = [worker for worker in workers if worker.is_alive()]
    if left:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch would raise for each
    for worker in left:
        worker.kill()


def identity_collate(item: Any) -> Any:
    """torch's own way would turn the arrays of the keys into tensors."""
    return item


def init_worker(worker: int) -> None:
    """A worker leaves signals to its parent and uses one thread, so workers do not fight over the cores.

    Job managers send SIGTERM to all processes at once: the parent still needs the batches of its last step. A second one,
    such as the parent's own at the end, is obeyed.
    """

    def first(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, first)
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    torch.set_num_threads(1)


def evaluation_requests(split: Split, indices: np.ndarray, batch: int) -> list[Keys]:
    """Images at `indices` in batches, for looking at each once."""
    parts = [indices[i : i + batch] for i in range(0, len(indices), batch)]
    return [Keys(np.zeros_like(part), part) for part in parts]


def default_workers(split: Split, augmented: bool, processes: int) -> int:
    """None for images in memory that need no work of their own; otherwise what the machine can spare."""
    if split.array is not None and not augmented:
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, max(1, cores // processes // (1 if torch.cuda.is_available() else 2)))
