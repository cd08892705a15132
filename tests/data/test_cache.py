"""Images kept in memory are the images on disk, in every process; where memory is short they are read as before."""

import multiprocessing

import numpy as np
import pytest
from PIL import Image

from vitrail.data import cache
from vitrail.data.cache import cache_images
from vitrail.data.dataset import ArrayReader, Dataset, Split
from vitrail.data.loader import Fetcher, evaluation_requests, load_batches
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.datasets import imagefolder
from vitrail.errors import BadImage


@pytest.fixture
def dataset(tmp_path):
    """Images of many sizes."""
    random = np.random.default_rng(0)
    for part in ("train", "val", "test"):
        for name in ("ant", "bee"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(7):
                pixels = random.integers(
                    0, 256, (int(random.integers(1, 40)), int(random.integers(1, 40)), 3), np.uint8
                )
                Image.fromarray(pixels).save(tmp_path / part / name / f"{i}.png")
    return imagefolder.build(imagefolder.Config(str(tmp_path)))


def remove(tmp_path):
    for file in tmp_path.rglob("*.png"):
        file.unlink()


def test_the_same_pixels_and_no_file_is_read_again(dataset, tmp_path):
    before = [dataset.splits["train"].read(i) for i in range(14)]
    kept, notes = cache_images(dataset, ["train"], 1)
    remove(tmp_path)
    split = kept.splits["train"]
    for i in (3, *range(14)):
        assert np.array_equal(split.read(i), before[i])
        assert split.read(i).flags.writeable
    assert kept.splits["val"] is dataset.splits["val"]
    assert split.names is dataset.splits["train"].names
    assert len(notes) == 1
    assert "14 images of train" in notes[0]
    assert np.array_equal(split.select(np.array([5, 2])).read(1), before[2])


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_with_and_without(workers, dataset, tmp_path):
    fetch = Preprocess((16, 16), 3, (0.5,) * 3, (0.5,) * 3)
    requests = evaluation_requests(dataset.splits["train"], np.arange(14), 5)
    plain = [b.images for b in load_batches(Fetcher(dataset.splits["train"], fetch), requests, 0)]
    kept, _ = cache_images(dataset, ["train"], 1)
    remove(tmp_path)
    found = [b.images for b in load_batches(Fetcher(kept.splits["train"], fetch), requests, workers)]
    assert all((a == b).all() for a, b in zip(plain, found, strict=True))


def test_a_process_that_was_not_forked_sees_the_same_memory(dataset, tmp_path):
    split = cache_images(dataset, ["val"], 1)[0].splits["val"]
    remove(tmp_path)
    with multiprocessing.get_context("forkserver").Pool(1) as pool:
        found = pool.map(split.read, range(14))
    assert all(np.array_equal(a, split.read(i)) for i, a in enumerate(found))


def test_too_little_memory_is_told_and_nothing_changes(dataset, monkeypatch):
    need = cache.estimate_bytes(dataset.splits["train"])
    assert abs(need - sum(dataset.splits["train"].read(i).nbytes for i in range(14))) <= 14, (
        "all are looked at where there are few"
    )
    for free, processes, taken in ((2 * need - 50, 1, False), (2 * need + 50, 1, True), (2 * need + 50, 2, False)):
        monkeypatch.setattr(cache, "free_memory", lambda free=free: free)
        kept, notes = cache_images(dataset, ["train"], processes)
        assert (kept is not dataset) == taken
        assert ("ignored" in notes[0]) == (not taken)


def test_images_in_memory_are_left_where_they_are():
    split = Split(["a"], np.zeros(1, np.int64), ArrayReader(np.zeros((1, 4, 4, 1), np.uint8)))
    dataset = Dataset("npz", ("x",), {"train": split}, 1)
    kept, notes = cache_images(dataset, ["train"], 1)
    assert kept is dataset
    assert "already" in notes[0]


def test_an_image_that_cannot_be_read_is_named_at_once(dataset, tmp_path):
    (tmp_path / "train/bee/3.png").write_bytes(b"no image")
    with pytest.raises(BadImage, match=r"bee/3\.png"):
        cache_images(dataset, ["train"], 1)


def test_the_machine_says_how_much_memory_it_has(monkeypatch):
    assert 10**7 < cache.free_memory() < 10**14
    told = {"/proc/meminfo": "MemTotal: 9 kB\nMemAvailable:   2000 kB\n"}
    monkeypatch.setattr(cache, "text", lambda path: told.get(path, ""))
    assert cache.free_memory() == 2000 * 1024
    told |= {"/sys/fs/cgroup/memory.max": "1000000\n", "/sys/fs/cgroup/memory.current": "400000\n"}
    assert cache.free_memory() == 600000
    told["/sys/fs/cgroup/memory.max"] = "max\n"
    assert cache.free_memory() == 2000 * 1024
