"""Batches of images by step, with or without worker processes: the same pixels either way."""

import atexit
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from vitrail.data.dataset import Split
from vitrail.data.sampling import Keys, SampleStream
from vitrail.data.stderr import silence_pillow
from vitrail.data.survey.unreadable import LostImage, StandIns
from vitrail.data.transforms.base import Transform
from vitrail.errors import DataError, RunError, VitrailError
from vitrail.types import each_tensor

POLL_S = 1.0  # seconds between two looks at workers that are waited for


class LoadedBatch(NamedTuple):
    """Images as read, uint8 [B C h w] or `Views` of them, or latents float32 [B c h w]; their labels or annotations;
    and their keys."""

    images: Any
    labels: Any  # class indices [B], classes [B K], masks [B h w], or `DetectionTargets`
    keys: Keys
    lost: tuple[LostImage, ...] = ()  # that could not be read: `keys` has what stands in for them

    @property
    def size(self) -> int:
        """How many images."""
        return len(self.images if isinstance(self.images, Tensor) else self.images[0])


@dataclass(frozen=True)
class Fetcher:
    """Reads the images of given keys; runs in the workers, to which it is pickled. stand_ins: for images that cannot be
    read, which are an error otherwise."""

    split: Split
    transform: Transform
    stand_ins: StandIns | None = None

    def __call__(self, keys: Keys) -> LoadedBatch:
        if self.stand_ins is None:
            return LoadedBatch(*self.transform.load(self.split, keys), keys)
        return LoadedBatch(*self.stand_ins.load(self.transform.load, self.split, keys))


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


@dataclass(frozen=True)
class WatchedReader:
    """A reader that counts what it has read, so that slow workers can be distinguished from those that hang, and names
    the image in errors that nobody foresaw. `done`: a number in shared memory; two workers at once may count one."""

    read: Callable[[int], Any]
    names: Any
    done: Any

    def __call__(self, index: int) -> Any:
        try:
            return self.read(index)
        except VitrailError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            what = f"{self.names[index]} (image {index:,} of its part) could not be read: {reason[:300]}"
            raise DataError(what, "--debug --workers 0 shows where; leave the image out, or repair it") from error
        finally:
            self.done.value += 1


def watch_reader(split: Split, done: Any) -> Split:
    """The split with its reader counted; images that are in memory are not read one by one."""
    return split if split.array is not None else replace(split, read=WatchedReader(split.read, split.names, done))


class Requests:
    """A data set for torch's loader: item i is the batch that a `Fetcher` reads for request i."""

    def __init__(self, fetch: Fetcher, requests: list[Keys] | TrainRequests):
        self.fetch, self.requests = fetch, requests

    def __len__(self) -> int:
        return len(self.requests)

    def __getitem__(self, index: int) -> LoadedBatch | VitrailError:
        try:
            return share_batch(self.fetch(self.requests[index]))
        except VitrailError as error:
            return error  # torch would wrap it in a traceback


def share_batch(loaded: LoadedBatch) -> LoadedBatch:
    """The batch in the memory that processes share. torch would put it there too, but in a thread whose errors nobody
    hears: the batch would be lost, and waited for without end. Errors: `RunError`."""
    try:
        for part in loaded[:2]:
            each_tensor(lambda t: t.share_memory_() if t.numel() else t, part)
    except RuntimeError as error:
        parts = (loaded.images,) if isinstance(loaded.images, Tensor) else loaded.images
        size = sum(t.numel() * t.element_size() for t in parts)
        what = f"a worker process cannot pass on a batch of {size / 1e6:,.1f} MB: {str(error).splitlines()[0][:200]}"
        raise RunError(what, "--workers 0 needs no shared memory; in a container: --shm-size 2g") from None
    return loaded


def load_batches(
    fetch: Fetcher,
    requests: list[Keys] | TrainRequests,
    workers: int,
    limit: float = 60.0,
    is_stopped: Callable[[], bool] = bool,
) -> Iterator[LoadedBatch]:
    """The batches of `requests`, in order, until `is_stopped`, which is asked while workers are waited for.

    Errors: those of reading an image; `RunError` where a worker dies, or none has read an image for `limit` seconds.
    """
    done = multiprocessing.RawValue("Q")
    fetch = replace(fetch, split=watch_reader(fetch.split, done))
    if workers == 0:
        return (fetch(requests[i]) for i in range(len(requests)))
    return load_from_workers(fetch, requests, workers, WorkerWait(done, limit, is_stopped))


@dataclass
class WorkerWait:
    """How long workers are waited for. `done`: the images that all of them have read."""

    done: Any
    limit: float
    is_stopped: Callable[[], bool]

    def next_batch(self, batches: Iterator[Any], name: str) -> Any:
        """The next batch, None after a stop. `name`: the first image of it. Errors: `RunError` where no image is read
        any more."""
        before, since = -1, 0.0
        while True:
            try:
                return next(batches)
            except RuntimeError as error:
                if "DataLoader timed out" not in str(error):
                    raise
            if self.is_stopped():
                return None
            if self.done.value != before:
                before, since = self.done.value, time.monotonic()
            elif time.monotonic() - since > self.limit - POLL_S:
                what = f"no worker process has read an image for {self.limit:.0f} s; the batch of {name} is waited for"
                fix = "does its disk answer? --workers 0 reads without workers; --runtime.timeout SECONDS waits longer"
                raise RunError(what, fix)


def load_from_workers(
    fetch: Fetcher, requests: list[Keys] | TrainRequests, workers: int, wait: WorkerWait
) -> Iterator[LoadedBatch]:
    has_gpu = torch.cuda.is_available()  # a forked process cannot use a GPU; Windows has no forkserver
    safe = "forkserver" if has_gpu and "forkserver" in multiprocessing.get_all_start_methods() else None
    fetch = replace(fetch, split=fetch.split.shared()) if has_gpu else fetch
    loader: DataLoader = DataLoader(
        Requests(fetch, requests),  # type: ignore[arg-type]
        batch_size=None,
        shuffle=False,
        num_workers=workers,
        prefetch_factor=2,
        collate_fn=identity_collate,
        worker_init_fn=init_worker,
        multiprocessing_context=safe,
        pin_memory=has_gpu,
        timeout=POLL_S,
    )
    other_children = multiprocessing.active_children()
    try:
        batches = iter(loader)
    except OSError as error:
        what = f"worker processes cannot be started: {error.strerror or error}"
        raise RunError(what, "is /dev/shm full? --workers 0 reads without workers") from None
    children = [child for child in multiprocessing.active_children() if child not in other_children]
    atexit.register(stop_workers, children)
    try:
        with raise_on_worker_death():
            for i in range(len(requests)):
                ids = requests[i].ids
                name = str(fetch.split.names[int(ids[0])]) if len(ids) else "no image"
                loaded = next_from_workers(batches, wait, name)
                if isinstance(loaded, VitrailError):
                    raise loaded
                if loaded is None:
                    break
                yield loaded
    except VitrailError:  # a worker that hangs would be waited for again
        stop_workers(children)
        raise
    if wait.is_stopped():
        stop_workers(children)


def next_from_workers(batches: Iterator[Any], wait: WorkerWait, name: str) -> LoadedBatch | VitrailError | None:
    """What workers send. A worker that dies between announcing and sending a batch breaks the pipe."""
    try:
        return wait.next_batch(batches, name)
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
    if alive and "SIGCHLD" in vars(signal) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # otherwise torch raises for each
    for worker in alive:
        worker.kill()
    for worker in alive:
        worker.join(1.0)  # one that waits for a dead disk cannot even be killed


def identity_collate(item: Any) -> Any:
    """Leaves a batch as it is; torch's default would turn the arrays of the keys into tensors."""
    return item


def init_worker(worker: int) -> None:
    """A worker ignores signals, which the parent handles, and uses one thread, so workers do not compete for cores.

    Job managers send SIGTERM to all processes at once: the parent still needs the batches of its last step. A second
    SIGTERM, such as the parent's own at the end, ends the worker.
    """
    silence_pillow()

    def ignore_first(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)

    for name, handler in (("SIGINT", signal.SIG_IGN), ("SIGTERM", ignore_first), ("SIGUSR1", signal.SIG_IGN)):
        if name in vars(signal):  # Windows has no SIGUSR1
            signal.signal(vars(signal)[name], handler)
    torch.set_num_threads(1)


def evaluation_requests(split: Split, indices: np.ndarray, batch: int) -> list[Keys]:
    """Keys of the images at `indices` in batches, each image once."""
    batches = [indices[i : i + batch] for i in range(0, len(indices), batch)]
    return [Keys(np.zeros_like(part), part) for part in batches]


def default_workers(split: Split, augmented: bool, processes: int) -> int:
    """0 for images in memory without per-image work; else by the CPU cores. processes: of this machine."""
    if split.array is not None and not augmented:
        return 0
    cores = count_cores()
    return min(8, max(1, cores // processes // (1 if torch.cuda.is_available() else 2)))


def count_cores() -> int:
    """CPU cores that this process may use."""
    usable = vars(os).get("sched_getaffinity")  # Linux alone has it
    return len(usable(0)) if usable else os.cpu_count() or 1
