"""A store that is slow, busy, wrong, cut off or another: what is read is right or an error, after some attempts."""

import hashlib
import http.server
import pickle
import random
import threading
import time

import numpy as np
import pytest
import tiny
from PIL import Image

from vitrail.assembly.data import open_data
from vitrail.assembly.opening.packing import pack_data
from vitrail.cli.main import main
from vitrail.data.shards import http as store_http
from vitrail.data.shards.http import ATTEMPTS, HttpStore
from vitrail.data.shards.index import NAME
from vitrail.errors import BadImage, DataError
from vitrail.recipe import DataConfig


class Faulty(http.server.BaseHTTPRequestHandler):
    """Serves a folder by ranges; `server.fault(number, name)` names what goes wrong with a request."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        name = self.path.rpartition("/")[2]
        server.asked.append((name, self.headers.get("Range")))
        fault = server.fault(len(server.asked), name)
        path = server.root / name
        if not path.is_file():
            return self.answer(404, b"")
        whole, status, more = path.read_bytes(), 200, {}
        if given := self.headers.get("Range"):
            first, last = map(int, given.removeprefix("bytes=").split("-"))
            whole, status = whole[first : last + 1], 206
        if fault in (503, 500, 429, 403):
            return self.answer(fault, b"busy", {"Retry-After": "0"})
        if fault == "redirect":
            return self.answer(302, b"", {"Location": "http://elsewhere.example/x"})
        if fault == "whole":
            return self.answer(200, path.read_bytes())
        if fault == "wrong bytes":
            whole = bytes([whole[0] ^ 1]) + whole[1:]
        if fault == "wrong length":
            whole += b"more"
        if fault == "slow":
            time.sleep(0.02)
        return self.answer(status, whole, more, cut=fault == "reset")

    def answer(self, status, body, more=(), cut=False):
        self.send_response(status)
        for key, value in dict(more).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self.wfile.flush()
            self.connection.close()
            self.close_connection = True


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
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Faulty)
    server.handle_error = lambda *_: None  # of connections that a fault has cut
    server.root, server.asked, server.fault = shards, [], lambda *_: None
    server.url = f"http://127.0.0.1:{server.server_port}/some/path/"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


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
    again = look(store.url)
    read_all(again)
    assert len([1 for _, given in store.asked if given]) == 40, "kept on this machine"
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
        assert look(path, sha256=right).classes == ("a", "b")
        with pytest.raises(DataError, match=r"SHA-256"):
            look(path, sha256="0" * 64)


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
