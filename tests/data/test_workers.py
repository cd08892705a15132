"""Worker processes that are slow, hang, fail or find no shared memory: a run ends with a sentence, never in a wait."""

import multiprocessing
import time

import numpy as np
import pytest
import torch

from vitrail.data import loader
from vitrail.data.dataset import Split
from vitrail.data.loader import Fetcher, evaluation_requests, load_batches
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.errors import BadImage, DataError, RunError

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
PRE = Preprocess((8, 8), 3, (0.5,) * 3, (0.5,) * 3, "stretch", 1.0)


def pixels(index):
    return np.full((8, 8, 3), index, np.uint8)


def hangs(index):
    if index == 6:
        time.sleep(600)
    return pixels(index)


def slow(index):
    time.sleep(0.3)
    return pixels(index)


def fails(index):
    if index == 6:
        raise TypeError("no pixels here")
    return pixels(index)


def damaged(index):
    raise BadImage(f"image-{index}.png is truncated")


def batches(read, workers=2, **named):
    split = Split([f"image-{i}.png" for i in range(16)], np.zeros(16, np.int64), read)
    return load_batches(Fetcher(split, PRE), evaluation_requests(split, np.arange(16), 4), workers, **named)


@pytest.fixture(autouse=True)
def nobody_stays():
    before = multiprocessing.active_children()
    yield
    assert not [p for p in multiprocessing.active_children() if p not in before]


def test_workers_that_read_nothing_any_more_end_the_run_with_a_sentence():
    began = time.monotonic()
    text = r"no worker process has read an image for 3 s; the batch of image-4\.png"
    with pytest.raises(RunError, match=text) as told:
        list(batches(hangs, limit=3.0))
    assert "--workers 0" in told.value.fix
    assert time.monotonic() - began < 15


@pytest.mark.slow
def test_workers_that_are_slow_are_waited_for():
    """A batch takes longer than the limit, an image does not."""
    assert len(list(batches(slow, workers=1, limit=1.1))) == 4


def test_a_stop_is_obeyed_while_a_worker_hangs():
    stopped, seen = [], []
    for loaded in batches(hangs, is_stopped=lambda: bool(stopped)):
        seen.append(loaded)
        stopped.append(True)
    assert len(seen) == 1


def test_shared_memory_that_is_full_is_told_by_the_worker(monkeypatch):
    def full(tensor):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    with pytest.raises(
        RunError, match=r"a worker process cannot pass on a batch of 0\.0 MB: unable to allocate"
    ) as told:
        list(batches(pixels))
    assert "--workers 0" in told.value.fix


def test_workers_that_cannot_be_started_are_told(monkeypatch):
    class Full(loader.DataLoader):
        def __iter__(self):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(loader, "DataLoader", Full)
    with pytest.raises(RunError, match="worker processes cannot be started: No space left on device"):
        list(batches(pixels))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_that_nobody_foresaw_names_its_image(workers):
    with pytest.raises(DataError, match=r"image-6\.png \(image 6 of its part\).*TypeError: no pixels here"):
        list(batches(fails, workers))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_told_as_it_is(workers):
    with pytest.raises(BadImage, match=r"image-0\.png is truncated"):
        list(batches(damaged, workers))


def test_what_is_read_is_the_same_with_workers():
    for alone, shared in zip(batches(pixels, 0), batches(pixels, 2), strict=True):
        assert torch.equal(alone.images, shared.images)
        assert shared.images.is_shared()
