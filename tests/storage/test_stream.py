"""Files of tensors written piece by piece: safetensors' own bytes, no second copy in memory, one hash."""

import hashlib
import json
import os

import pytest
import torch
from safetensors.torch import load_file, save

from vitrail.engine import checkpoint
from vitrail.errors import CheckpointError
from vitrail.storage import large
from vitrail.storage import tensors as files
from vitrail.storage.atomic import verify_folder, write_file, write_folder
from vitrail.storage.stream import CHUNK, TYPES, stream_tensors, tensor_bytes
from vitrail.storage.tensors import pack, stream, stream_listed, unpack

EXOTIC = {
    "bf16": torch.linspace(-3, 3, 7).bfloat16(),
    "scalar": torch.tensor(3.0),
    "transposed": torch.arange(12.0).reshape(3, 4).t(),
    "channels last": torch.arange(48.0).reshape(2, 2, 3, 4).to(memory_format=torch.channels_last),
    "empty": torch.zeros(0, 3),
    "empty.int": torch.zeros(0, dtype=torch.int64),
    "strided": torch.arange(10)[::3],
    "expanded": torch.ones(1, 3).expand(4, 3),
    "negative": torch._neg_view(torch.arange(3.0)),
    'a "name"\n\\ of ü and \x01': torch.ones(2),
}


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.contiguous().float(), b.contiguous().float())


def of_every_type():
    numbers = torch.arange(5)
    return {f"{'zyx'[i % 3]}{i}": numbers.to(dtype) for i, dtype in enumerate(TYPES)}


@pytest.mark.parametrize("tensors", [EXOTIC, of_every_type(), {}, {"only": torch.ones(3)}])
@pytest.mark.parametrize("about", [{}, {"a": [1, "ü", None]}])
def test_the_bytes_are_those_of_safetensors(tensors, about, tmp_path):
    contiguous = {name: t.resolve_neg().contiguous() for name, t in tensors.items()}
    words = files.make_header(tensors, about)
    assert pack(tensors, about) == save(contiguous, {files.KEY: words})
    write_file(tmp_path / "file.safetensors", stream(tensors, about))
    read, found = unpack(tmp_path / "file.safetensors")
    assert found == about
    assert read.keys() == tensors.keys()
    for name, tensor in load_file(tmp_path / "file.safetensors").items():
        assert same(tensor, tensors[name])
        assert same(read[name], tensors[name])


def test_the_hash_in_the_header_is_what_it_was():
    """Over names, types, shapes and bytes by name: files of former versions are verified by it."""
    total = hashlib.sha256(b'{"a": 1}')
    for name in sorted(EXOTIC):
        t = EXOTIC[name].resolve_neg().contiguous()
        total.update(f"{name} {t.dtype} {tuple(t.shape)}".encode())
        total.update(t.flatten().view(torch.uint8).numpy().tobytes())
    assert files.digest(EXOTIC, {"a": 1}) == total.hexdigest()


def test_pieces_are_small_and_no_copies():
    tensor = torch.arange(CHUNK, dtype=torch.float32)
    header, *pieces = stream_tensors({"w": tensor}, {})
    assert len(header) < 100
    assert [len(piece) for piece in pieces] == [CHUNK] * 4
    tensor[0], tensor[-1] = 7, 8  # seen through the pieces: they are views of the tensor's memory
    assert bytes(pieces[0][:4]) == torch.tensor(7.0).numpy().tobytes()
    assert bytes(pieces[-1][-4:]) == torch.tensor(8.0).numpy().tobytes()


def test_one_tensor_that_is_not_contiguous_is_copied_at_a_time(monkeypatch):
    alive, most = set(), []

    def watch(tensor):
        alive.add(id(tensor))
        most.append(len(alive))
        yield from tensor_bytes(tensor)
        alive.discard(id(tensor))

    monkeypatch.setattr("vitrail.storage.stream.tensor_bytes", watch)
    wide = {f"w{i}": torch.arange(6.0).reshape(2, 3).t() for i in range(4)}
    assert b"".join(stream_tensors(wide, {})) == save({k: t.contiguous() for k, t in wide.items()})
    assert most == [1] * 4


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (torch.ones(2, dtype=torch.complex64), "complex64"),
        (torch.ones(2, dtype=torch.complex64).conj(), "complex64"),
        (torch.ones(2, dtype=torch.complex128), "complex128"),
        (torch.eye(2).to_sparse(), "sparse"),
        (torch.ones(2, device="meta"), "no data"),
        (torch.ones(2).to(torch.float8_e4m3fnuz), "float8_e4m3fnuz"),
    ],
)
def test_what_no_file_holds_is_refused_by_name(tensor, words, tmp_path):
    with pytest.raises(CheckpointError, match=rf"blocks\.0.*{words}"):
        write_file(tmp_path / "file", stream_listed({"a": torch.ones(1), "blocks.0": tensor}))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("view", [lambda w: w, lambda w: w[:2], lambda w: w[3], lambda w: w.detach().view(2, 8)])
def test_tensors_that_share_memory_are_refused(view):
    w = torch.arange(16.0).reshape(4, 4)
    with pytest.raises(CheckpointError, match="share memory"):
        pack({"first": w, "second": view(w)}, {})


def test_parts_of_one_memory_that_do_not_overlap_are_not_shared():
    w = torch.arange(16.0).reshape(4, 4)
    tensors = {"a": w[:2], "b": w[2:], "empty": w[:0]}
    assert pack(tensors, {}) == save(tensors, {files.KEY: files.make_header(tensors, {})})
    assert pack({"a": w, "b": w.t()}, {})  # the transposed one is written as a copy


def test_a_checkpoint_is_hashed_once_and_guarded_by_its_manifest(tmp_path, monkeypatch):
    parts = {"model": dict(EXOTIC), "optimizer": {"w|step": torch.tensor(3.0)}}
    monkeypatch.setattr(files, "digest", lambda *_: pytest.fail("a second hash"))
    path = checkpoint.save(tmp_path / "checkpoints", parts, {"step": 3, "averaged": 0, "scaler": {}})
    rows = json.loads((path / "manifest.json").read_bytes())["files"]
    for name, row in rows.items():
        content = (path / name).read_bytes()
        assert row == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    verify_folder(path)
    saved = checkpoint.load(path)
    assert all(same(saved.parts["model"][name], t) for name, t in EXOTIC.items())


def test_a_file_of_a_checkpoint_read_by_itself_is_verified_by_the_manifest(tmp_path):
    path = checkpoint.save(tmp_path / "c", {"model": {"w": torch.arange(9.0)}}, {"step": 1})
    file = path / "model.safetensors"
    assert unpack(file)[0]["w"].tolist() == list(range(9))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="altered"):
        unpack(file)
    file.rename(path / "other.safetensors")
    with pytest.raises(CheckpointError, match="not listed"):
        unpack(path / "other.safetensors")


def test_a_checkpoint_of_a_former_version_with_hashes_in_its_files_is_read(tmp_path):
    parts = {"model": {"w": torch.arange(9.0)}, "optimizer": {"w|step": torch.tensor(3.0)}}
    old = {f"{name}.safetensors": pack(tensors, {}) for name, tensors in parts.items()}
    write_folder(tmp_path / "step-00000003", {**old, "state.json": b'{"step": 3, "averaged": 0, "scaler": {}}'})
    assert checkpoint.load(tmp_path / "step-00000003").parts["model"]["w"].tolist() == list(range(9))


def test_a_disk_that_fills_up_half_way_leaves_the_last_checkpoint(tmp_path):
    numbers = {"step": 1, "averaged": 0, "scaler": {}}
    parts = {"model": {"w": torch.zeros(CHUNK)}, "optimizer": {"w|step": torch.tensor(3.0)}}
    checkpoint.save(tmp_path / "c", parts, numbers)

    def full():
        yield b"some"
        raise OSError(28, os.strerror(28))

    with pytest.raises(OSError, match="No space"):
        write_folder(tmp_path / "c" / "step-00000002", {"a": b"1", "model.safetensors": full()})
    assert [p.name for p in (tmp_path / "c").iterdir()] == ["step-00000001"]
    assert checkpoint.load_newest(tmp_path / "c")[1] == []


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of two pages, past the cache after two of them; returns the changes between both ways."""
    monkeypatch.setattr(large, "BLOCK", 8192)
    monkeypatch.setattr(large, "CACHED", 16384)
    changes, bypass = [], large.bypass_cache

    def watch(handle, wanted):
        changed = bypass(handle, wanted)
        changes.extend([wanted] * changed)
        return changed

    monkeypatch.setattr(large, "bypass_cache", watch)
    return changes


@pytest.mark.parametrize("size", [0, 1, 8192, 16384, 16385, 24576, 100_001])
@pytest.mark.parametrize("piece", [1000, 8192, 50_000])
def test_a_large_file_is_whole_past_the_cache(size, piece, tmp_path, small_blocks):
    content = torch.arange(size).to(torch.uint8).numpy().tobytes()
    large.write_synced(tmp_path / "f", (content[i : i + piece] for i in range(0, size, piece)))
    assert (tmp_path / "f").read_bytes() == content
    assert small_blocks in ([], [True, False])


def refusing(handle, content, write=os.write):
    import fcntl

    if fcntl.fcntl(handle, fcntl.F_GETFL) & large.DIRECT:
        raise OSError(22, "Invalid argument")
    return write(handle, content)


def short(handle, content, write=os.write):
    return write(handle, content[: max(1, len(content) // 3)])


@pytest.mark.skipif(not large.DIRECT, reason="only Linux writes past the cache")
@pytest.mark.parametrize("write", [refusing, short])
def test_a_file_system_that_writes_otherwise(write, tmp_path, small_blocks, monkeypatch):
    content = torch.arange(70_000).to(torch.uint8).numpy().tobytes()
    monkeypatch.setattr(os, "write", write)
    large.write_synced(tmp_path / "f", [content])
    assert (tmp_path / "f").read_bytes() == content


def test_a_full_disk_past_the_cache_is_an_error_of_the_disk(tmp_path, small_blocks, monkeypatch):
    def full(handle, content, write=os.write):
        if os.fstat(handle).st_size >= 24576:
            raise OSError(28, os.strerror(28))
        return write(handle, content)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        write_folder(tmp_path / "step", {"a": [bytes(70_000)]})
    assert not list(tmp_path.iterdir())
