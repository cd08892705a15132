"""`--precision` of predict and eval: bf16 where it is asked for or pays; said, and never kept as a run's evaluation."""

import json

import numpy as np
import pytest
import torch

from vitrail.assembly import precision as assembled
from vitrail.cli.main import main
from vitrail.engine import precision as precisions
from vitrail.errors import UsageError
from vitrail.inference.load_any import load_any


@pytest.fixture
def pixels():
    return torch.from_numpy(np.random.default_rng(2).integers(0, 256, (7, 3, 32, 32), np.uint8))


def test_bf16_is_near_fp32(run, pixels):
    exact, rounded = (load_any(run, precision=name).predict(pixels).probabilities for name in ("fp32", "bf16"))
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(exact, rounded, rtol=0, atol=0.02)


def test_auto_follows_the_processor_and_the_size(run, monkeypatch):
    monkeypatch.setattr(precisions, "bf16_unit", lambda: "AMX")
    assert load_any(run, precision="auto").choice.name == "fp32"  # too small
    monkeypatch.setattr(assembled, "BF16_MACS", 1000)
    assert load_any(run, precision="auto").choice.name == "bf16"
    monkeypatch.setattr(precisions, "bf16_unit", lambda: "")
    assert load_any(run, precision="auto").choice == precisions.PrecisionChoice(
        "fp32", "this CPU has neither AMX nor AVX512-BF16"
    )


def test_it_is_said_and_not_kept(run, capsys):
    kept = run / "evaluation" / "test.json"
    before = kept.read_bytes() if kept.is_file() else b""
    assert main(["eval", str(run), "--precision", "bf16"]) == 0
    assert "precision bf16: as set" in capsys.readouterr().out
    assert (kept.read_bytes() if kept.is_file() else b"") == before
    assert main(["eval", str(run), "--precision", "bf16", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["precision"] == "bf16"
    assert main(["eval", str(run), "--precision", "fp64"]) == 2


@pytest.mark.slow
def test_engines_without_bf16(run, tmp_path):
    assert main(["export", str(run), "--out", str(tmp_path / "onnx")]) == 0
    with pytest.raises(UsageError, match="computes in fp32 only"):
        load_any(tmp_path / "onnx", precision="bf16")
    assert load_any(tmp_path / "onnx", precision="auto").choice.name == "fp32"
    pytest.importorskip("openvino")
    assert load_any(tmp_path / "onnx", "openvino", precision="bf16").engine.name == "openvino bf16"
