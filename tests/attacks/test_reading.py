"""Nothing in a file of weights is ever run, and nothing it promises is believed: every refused payload stays here."""

import importlib.util
import resource
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vitrail.errors import CheckpointError
from vitrail.storage.tensors import nonfinite_names
from vitrail.weights.read import read_weights

spec = importlib.util.spec_from_file_location("payloads", Path(__file__).with_name("payloads.py"))
payloads = importlib.util.module_from_spec(spec)
spec.loader.exec_module(payloads)

WATCHED = (
    "subprocess.",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "socket.",
    "ctypes.dlopen",
    "pty.spawn",
)
heard: list[str] = []
listening = [False]


def hook(event, args):
    if listening[0] and event.startswith(WATCHED):
        heard.append(event)


sys.addaudithook(hook)


@pytest.fixture
def quiet():
    """Asserts that no process was started and no socket opened."""
    read_something_honest()
    heard.clear()
    listening[0] = True
    yield
    listening[0] = False
    assert heard == []


def read_something_honest():
    """Lets torch import what it imports on its first load."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        torch.save({"w": torch.zeros(2)}, Path(folder) / "x.pth")
        read_weights(Path(folder) / "x.pth")


def refuses(path, said=None):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=said) as error:
        read_weights(path)
    rise = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert rise < 50, f"{rise:.0f} MB to refuse it"
    assert len(error.value.fix) > 5
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("kind", ["zip", "pickle", "old torch", "tar", "joblib"])
@pytest.mark.parametrize("what", sorted(payloads.calls("")))
def test_no_code_runs(tmp_path, quiet, what, kind):
    marker = tmp_path / "marker"
    for protocol in range(6):
        refuses(payloads.code(tmp_path, marker, what, protocol, kind))
    assert not marker.exists()


def test_no_code_runs_behind_an_honest_zip_or_in_an_npz(tmp_path, quiet):
    marker = tmp_path / "marker"
    refuses(payloads.polyglot(tmp_path, marker))
    refuses(payloads.npz_objects(tmp_path, marker), "objects")
    assert not marker.exists()


@pytest.mark.parametrize("name", payloads.ZIPS)
def test_no_promise_is_believed(tmp_path, quiet, name):
    build, why = payloads.ZIPS[name]
    refuses(build(tmp_path), why)
    assert not (tmp_path.parent / "escape").exists()


@pytest.mark.parametrize("name", payloads.SAFETENSORS)
def test_damaged_safetensors(tmp_path, quiet, name):
    refuses(payloads.SAFETENSORS[name](tmp_path))


@pytest.mark.parametrize("ending", ["pth", "npz", "safetensors"])
def test_every_cut_and_a_known_hash(tmp_path, ending):
    path = honest(tmp_path, ending)
    whole = path.read_bytes()
    for keep in {0, 1, 3, 21, 22, len(whole) // 3, len(whole) // 2, len(whole) - 23, len(whole) - 1}:
        path.write_bytes(whole[:keep])
        refuses(path)
    path.write_bytes(whole)
    known = read_weights(path).sha256
    assert read_weights(path, known.upper()).sha256 == known
    content = bytearray(whole)
    content[-3 if ending == "safetensors" else len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="not the expected file"):
        read_weights(path, known)


def honest(folder, ending):
    import safetensors.torch as st

    tensors = {"a.weight": torch.randn(5, 3), "a.bias": torch.randn(5), "n": torch.tensor(3)}
    path = folder / f"honest.{ending}"
    if ending == "pth":
        torch.save(tensors, path)
    elif ending == "npz":
        np.savez(path, **{n: t.numpy() for n, t in tensors.items()})
    else:
        st.save_file(tensors, path)
    return path


@pytest.mark.parametrize("ending", ["pth", "npz", "safetensors"])
def test_honest_files_are_read(tmp_path, ending):
    assert read_weights(payloads.archive(tmp_path / "x.pth", payloads.tensor())).tensors["w"].tolist() == [1, 2, 3, 4]
    found = read_weights(honest(tmp_path, ending)).tensors
    assert {n: tuple(t.shape) for n, t in found.items()} == {"a.weight": (5, 3), "a.bias": (5,), "n": ()}
    assert found["a.weight"].dtype == torch.float32
    assert not nonfinite_names(found)


def test_not_finite_numbers_are_named():
    infinite = torch.tensor(float("inf")).bfloat16()
    assert nonfinite_names({"a": torch.tensor([1.0, float("nan")]), "b": torch.ones(2), "c": infinite}) == ["a", "c"]


@pytest.mark.parametrize("ending", ["pth", "npz", "safetensors"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(data=st.data())
def test_whatever_is_changed_only_one_error_leaves(tmp_path, ending, data):
    path = honest(tmp_path, ending)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        tensors = read_weights(path).tensors
    except CheckpointError:
        return
    assert sum(t.numel() for t in tensors.values()) < 1000


def test_wrappers_and_prefixes(tmp_path):
    state = {f"module._orig_mod.{n}": torch.zeros(2) for n in ("a.weight", "a.bias")}
    torch.save({"model": state, "optimizer": {"lr": 0.1}, "epoch": 3}, tmp_path / "x.pth")
    raw = read_weights(tmp_path / "x.pth")
    assert set(raw.tensors) == {"a.weight", "a.bias"}
    assert "epoch, optimizer" in " ".join(raw.notes)


def test_strange_endings_and_missing_files(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"x")
    for path in (tmp_path / "x.onnx", tmp_path / "none.pth", tmp_path):
        refuses(path)


def test_what_training_scripts_save_is_read(tmp_path):
    from torch import nn

    path, a = tmp_path / "x.pth", torch.randn(4, 3)
    optimiser = torch.optim.AdamW([nn.Parameter(a)])
    for what in (
        {"w": nn.Parameter(a)},
        {"w": a, "tied": a},
        {"w": a.T.contiguous().T, "empty": torch.zeros(0, 3)},
        {
            "w": a,
            "half": a.half(),
            "brain": a.bfloat16(),
            "double": a.double(),
            "count": torch.tensor(3),
            "flag": torch.tensor(True),
        },
        {
            "model": {"w": a},
            "optimizer": optimiser.state_dict(),
            "lr": 1e-3,
            "none": None,
            "big": -(2**40),
            "names": {"a", "b"},
        },
    ):
        torch.save(what, path)
        torch.testing.assert_close(read_weights(path).tensors["w"], a)
    torch.save({f"layer{i}.w": torch.zeros(1) for i in range(2000)}, path)
    assert len(read_weights(path).tensors) == 2000
    torch.save(nn.Linear(2, 2), path)
    refuses(path, r"torch\.nn\.modules\.linear\.Linear")
    torch.save({"w": a}, path, _use_new_zipfile_serialization=False)
    refuses(path, "not a zip")
