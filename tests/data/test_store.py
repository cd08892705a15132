"""A store that is slow, busy, wrong, cut off or another: what is read is right or an error, after some attempts."""

import hashlib
import pickle
import random
import tracemalloc

import numpy as np
import pytest
import tiny
from PIL import Image
from range_server import serve

from vitrail.assembly.data import open_data
from vitrail.assembly.opening.packing import pack_data
from vitrail.cli.main import main
from vitrail.data.shards import http as store_http
from vitrail.data.shards.http import ATTEMPTS, HttpStore
from vitrail.data.shards.index import NAME
from vitrail.errors import BadImage, DataError, UsageError
from vitrail.recipe import DataConfig


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    root = tmp_path_factory.mktemp("store")
    for name in "ab":
        (root / "photos" / name).mkdir(parents=True)
        for i in range(20):
            pixels = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "photos" / name / f"{i}.png")
    pack_data(DataConfig("", {"path": str(root / "photos")}), root / "shards", 10**5)
    return root / "shards"


@pytest.fixture
def store(shards, tmp_path, monkeypatch):
    """A store on this machine without faults, and its address; pauses take no time."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(store_http, "PAUSE_S", 0.0)
    with serve(shards) as server:
        yield server


def look(url, **keys):
    return open_data(DataConfig("", {"path": url, **keys}))[0]


def read_all(dataset):
    images = [split.read(i) for split in dataset.splits.values() for i in range(len(split))]
    for split in dataset.splits.values():
        split.read.pieces.store.close()
    return images


def test_images_of_a_store_are_those_of_the_folder_and_come_once(store, shards):
    theirs, ours = read_all_local(shards), look(store.url)
    for _ in range(2):
        for a, b in zip(read_all(ours), theirs, strict=True):
            np.testing.assert_array_equal(a, b)
    ranges = [one for one in store.asked if one[1]]
    assert len(ranges) == len(set(ranges)) == 40
    assert [name for name, given in store.asked if not given] == [NAME]
    store.asked.clear()
    again = look(store.url)
    read_all(again)
    assert [name for name, _ in store.asked] == [NAME], "images are kept on this machine"
    assert store.asked[0][1], "and so is the index, of which the beginning is compared"
    read_all(pickle.loads(pickle.dumps(again)))  # noqa: S301 (as a worker gets it)


def read_all_local(shards):
    dataset = look(str(shards))
    return [split.read(i) for split in dataset.splits.values() for i in range(len(split))]


@pytest.mark.parametrize(
    "fault",
    [
        503,
        "reset",
        "wrong bytes",
        "wrong length",
        *(pytest.param(f, marks=pytest.mark.slow) for f in (500, 429, "slow")),
    ],
)
def test_a_fault_that_passes_costs_an_attempt_and_no_image_is_wrong(store, shards, fault):
    draw = random.Random(1)
    store.fault = lambda number, name: fault if name != NAME and draw.random() < 0.1 else None
    for a, b in zip(read_all(look(store.url, cache="none")), read_all_local(shards), strict=True):
        np.testing.assert_array_equal(a, b)
    asked = len([1 for _, given in store.asked if given])
    assert asked == 40 if fault == "slow" else 40 < asked < 60


@pytest.mark.parametrize("fault", [503, "reset", "wrong bytes", "wrong length"])
def test_one_that_stays_is_an_error_after_some_attempts(store, fault):
    dataset = look(store.url, cache="none")
    store.fault = lambda *_: fault
    store.asked.clear()
    with pytest.raises(BadImage, match=rf"cannot be had, {ATTEMPTS} times: ") as told:
        dataset.splits["train"].read(0)
    assert len(store.asked) == ATTEMPTS
    assert len(str(told.value).splitlines()) <= 3
    dataset.splits["train"].read.pieces.store.close()


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("redirect", "redirects to elsewhere.example, which is not followed"),
        ("whole", "knows no Range"),
        (403, "answers 403"),
    ],
)
def test_what_will_not_pass_is_not_asked_for_again(store, fault, text):
    dataset = look(store.url, cache="none")
    store.fault = lambda *_: fault
    store.asked.clear()
    with pytest.raises(BadImage, match=text):
        dataset.splits["train"].read(0)
    assert len(store.asked) == 1
    dataset.splits["train"].read.pieces.store.close()


def test_a_cache_that_was_damaged_costs_a_request_and_a_full_disk_nothing(store, shards, tmp_path):
    dataset = look(store.url, cache=str(tmp_path / "kept"))
    expected = read_all(dataset)
    for path in (tmp_path / "kept").rglob("*.tar"):
        path.write_bytes(path.read_bytes()[:3000])
    store.asked.clear()
    for a, b in zip(read_all(dataset), expected, strict=True):
        np.testing.assert_array_equal(a, b)
    assert 0 < len(store.asked) <= 40
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot be written"):
        look(store.url, cache=str(tmp_path / "file"))


def test_an_empty_image_is_no_request_for_a_whole_shard(store, tmp_path, shards):
    dataset = look(store.url, cache="none")
    where = dataset.splits["train"].read.pieces.store
    store.asked.clear()
    assert where.read("train-000000.tar", 512, 0, hashlib.sha256(b"").digest()) == b""
    assert store.asked == []


def test_an_index_that_changed_is_fetched_and_one_that_was_damaged_here_too(store, shards, tmp_path):
    look(store.url, cache=str(tmp_path / "kept"))
    (kept,) = (tmp_path / "kept").rglob(f"*{NAME}")
    kept.write_bytes(kept.read_bytes()[:-3])
    store.asked.clear()
    assert look(store.url, cache=str(tmp_path / "kept")).classes == ("a", "b")
    assert store.asked == [(NAME, None)]
    (tmp_path / "photos" / "c").mkdir(parents=True)
    (tmp_path / "photos" / "d").mkdir()
    for name in ("c/1.png", "c/2.png", "d/1.png", "d/2.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / "photos" / name)
    pack_data(DataConfig("", {"path": str(tmp_path / "photos")}), tmp_path / "other", 10**5)
    store.root = tmp_path / "other"
    assert look(store.url, cache=str(tmp_path / "kept")).classes == ("c", "d")


def test_a_trickle_is_not_waited_for_without_end(store, monkeypatch):
    dataset = look(store.url, cache="none")
    monkeypatch.setattr(store_http, "SILENCE_S", 0.01)  # of the whole; between bytes it is longer
    monkeypatch.setattr(store_http, "ATTEMPTS", 2)
    monkeypatch.setattr(store_http, "LEAST_PER_S", 10**6)
    store.fault = lambda *_: "trickle"
    with pytest.raises(BadImage, match=r"2 times: (it sends fewer than 1,000,000 bytes a second|no byte within)"):
        dataset.splits["train"].read(0)
    dataset.splits["train"].read.pieces.store.close()


def test_answers_that_do_not_say_how_long_they_are_take_no_more_memory_than_they_have(store, shards):
    store.fault = lambda *_: "no length"
    tracemalloc.start()
    dataset = look(store.url, cache="none")
    theirs = read_all_local(shards)
    for a, b in zip(read_all(dataset), theirs, strict=True):
        np.testing.assert_array_equal(a, b)
    assert tracemalloc.get_traced_memory()[1] < 2**26
    tracemalloc.stop()
    assert len(store.asked) == 41, "each is asked for once"


@pytest.mark.parametrize(
    "url",
    ["http://host:99999/x", "http://[::1/x", "http://host:0/x", "http:///x", "https://me@host/x", "http://host/x?a=1"],
)
def test_what_is_no_address_is_said_so(url):
    with pytest.raises(DataError, match="is no address of a folder"):
        look(url)


def test_a_path_may_have_blanks_and_letters_of_any_language(store):
    dataset = look(store.url + "my photos/größer/")
    assert len(read_all(dataset)) == 40
    assert {path.rpartition("/")[0] for path in store.paths} == {"/some/path/my%20photos/gr%C3%B6%C3%9Fer"}


def test_a_store_is_packed_to_a_folder_and_not_indexed_from_afar(store, tmp_path, capsys):
    assert main(["pack", store.url]) == 2
    assert "is an address, and an index is written beside its shards" in " ".join(capsys.readouterr().err.split())
    assert main(["pack", store.url, "--out", str(tmp_path / "copy")]) == 0
    theirs, ours = look(str(store.root)), look(str(tmp_path / "copy"))
    for part, split in theirs.splits.items():
        assert list(ours.splits[part].names) == list(split.names)
        assert ours.splits[part].read.encoded(0) == split.read.encoded(0)


def test_pauses_grow_with_jitter_and_are_the_same_again(monkeypatch):
    pauses = []
    for _ in range(2):
        own = []
        store = HttpStore("http://127.0.0.1:9/x/", "none", own.append)
        with pytest.raises(BadImage, match="cannot be had"):
            store.read("a.tar", 0, 10, bytes(32))
        pauses.append(own)
    assert pauses[0] == pauses[1]
    assert len(pauses[0]) == ATTEMPTS - 1
    for k, pause in enumerate(pauses[0]):
        assert 0.5 <= pause / min(0.02 * 4**k, 10.0) < 1.5


def test_the_index_can_be_pinned(store, shards):
    right = hashlib.sha256((shards / NAME).read_bytes()).hexdigest()
    for path in (store.url, str(shards)):
        assert look(path, sha256=right).classes == look(path, sha256=f" {right.upper()}").classes == ("a", "b")
        with pytest.raises(DataError, match=r"is not the index with SHA-256 0000000000000000\.\.\."):
            look(path, sha256="0" * 64)
        with pytest.raises(UsageError, match=r"abc is no SHA-256"):
            look(path, sha256="abc")


@pytest.mark.slow
def test_a_run_learns_from_a_store_that_fails_now_and_then(store, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    draw = random.Random(0)
    store.fault = lambda *_: 503 if draw.random() < 0.05 else None
    words = [*tiny.WORDS, "--steps", "2", "--batch-size", "6", "--precision", "fp32", "--workers", "0"]
    assert main(["train", "--data", store.url, *words, "--out", "one"]) == 0
    assert main(["train", "--data", f"{store.url}nowhere/", *words, "--out", "two", "--dry-run"]) == 0, (
        "names alone count"
    )
    store.root = tmp_path
    assert main(["train", "--data", store.url, *words, "--out", "two"]) == 3
    assert "the store answers 404" in capsys.readouterr().err
