"""ONNX Runtime Web: from npm once, out of a folder, and never with another hash."""

import gzip
import hashlib
import io
import os
import tarfile

import pytest

from vitrail.errors import CheckpointError, RunError, UsageError
from vitrail.export.formats.html import runtime

CONTENT = {"runtime": b"export default 1;", "wasm": b"\0asm" * 100}


def archive(contents=CONTENT):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for key, content in contents.items():
            row = tarfile.TarInfo(f"package/dist/{runtime.FILES[key]}")
            row.size = len(content)
            tar.addfile(row, io.BytesIO(content))
    return buffer.getvalue()


ARCHIVE = archive()


@pytest.fixture(autouse=True)
def small_runtime(monkeypatch, tmp_path):
    """A runtime of a few bytes with hashes of its own, an empty cache, and no npm."""
    monkeypatch.setattr(runtime, "ARCHIVE_HASH", hashlib.sha512(ARCHIVE).hexdigest())
    monkeypatch.setattr(runtime, "HASHES", {k: hashlib.sha512(v).hexdigest() for k, v in CONTENT.items()})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


def fake_npm(tmp_path, content, code=0):
    """An npm that puts an archive where it is started, and counts how often."""
    (tmp_path / "served.tgz").write_bytes(content)
    (tmp_path / "bin").mkdir(exist_ok=True)
    npm = tmp_path / "bin" / "npm"
    npm.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n'
        f'[ {code} = 0 ] || {{ echo "npm error E404 not there" >&2; exit {code}; }}\n'
        f"/bin/cp {tmp_path}/served.tgz {runtime.ARCHIVE}\n"
    )
    npm.chmod(0o755)


def unpacked(blocks):
    return {key: gzip.decompress(content) for key, content in blocks.items()}


def test_npm_brings_it_once(tmp_path):
    fake_npm(tmp_path, ARCHIVE)
    assert unpacked(runtime.read_runtime()) == CONTENT
    assert unpacked(runtime.read_runtime()) == CONTENT
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len(calls) == 1
    assert calls[0].startswith("pack onnxruntime-web@1.30.0 --ignore-scripts")


def test_a_damaged_copy_is_brought_again(tmp_path):
    fake_npm(tmp_path, ARCHIVE)
    runtime.read_runtime()
    path = runtime.cache_folder() / f"{runtime.FILES['wasm']}.gz"
    for damage in (path.read_bytes()[:50], gzip.compress(b"else"), b""):
        path.write_bytes(damage)
        assert unpacked(runtime.read_runtime()) == CONTENT
    path.write_bytes(gzip.compress(b"else"))
    os.remove(tmp_path / "bin" / "npm")
    with pytest.raises(CheckpointError, match="is not of onnxruntime-web"):
        runtime.read_runtime()


def test_without_npm_one_sentence_says_what_to_bring():
    with pytest.raises(UsageError) as caught:
        runtime.read_runtime()
    assert caught.value.what == "ONNX Runtime Web is not on this machine, nor npm, which would bring it"
    assert "npm pack onnxruntime-web@1.30.0" in caught.value.fix
    assert "--runtime FOLDER" in caught.value.fix


def test_offline_nothing_is_asked(tmp_path, monkeypatch):
    fake_npm(tmp_path, ARCHIVE)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UsageError, match="HF_HUB_OFFLINE forbids"):
        runtime.read_runtime()
    assert not (tmp_path / "calls").exists()


def test_a_wrong_hash_names_both(tmp_path):
    other = archive({**CONTENT, "wasm": b"evil"})
    fake_npm(tmp_path, other)
    with pytest.raises(CheckpointError) as caught:
        runtime.read_runtime()
    assert hashlib.sha512(other).hexdigest() in caught.value.what
    assert runtime.ARCHIVE_HASH in caught.value.what
    assert len(str(caught.value).splitlines()) <= 5
    assert not runtime.cache_folder().exists()


def test_what_npm_says_is_handed_on(tmp_path):
    fake_npm(tmp_path, ARCHIVE, code=1)
    with pytest.raises(RunError, match=r"npm pack onnxruntime-web@1\.30\.0 failed: npm error E404 not there"):
        runtime.read_runtime()


@pytest.mark.parametrize("place", ["", "dist", "package/dist", "node_modules/onnxruntime-web/dist"])
def test_files_of_a_folder(place, tmp_path):
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    for key, content in CONTENT.items():
        (tmp_path / place / runtime.FILES[key]).write_bytes(content)
    assert unpacked(runtime.read_runtime(str(tmp_path))) == CONTENT
    (tmp_path / place / runtime.FILES["wasm"]).write_bytes(b"evil")
    with pytest.raises(CheckpointError, match=hashlib.sha512(b"evil").hexdigest()):
        runtime.read_runtime(str(tmp_path))


def test_archive_of_a_folder_or_by_its_name(tmp_path):
    (tmp_path / runtime.ARCHIVE).write_bytes(ARCHIVE)
    assert unpacked(runtime.read_runtime(str(tmp_path))) == CONTENT
    assert unpacked(runtime.read_runtime(str(tmp_path / runtime.ARCHIVE))) == CONTENT


def test_a_folder_without_it(tmp_path):
    with pytest.raises(UsageError, match=r"has neither onnxruntime-web-1.30.0.tgz nor ort.wasm.bundle.min.mjs and ort"):
        runtime.check_runtime(str(tmp_path))
    with pytest.raises(UsageError, match="there is no folder"):
        runtime.check_runtime(str(tmp_path / "none"))
