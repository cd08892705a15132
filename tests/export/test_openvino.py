"""OpenVINO: its files answer as torch does, and are not run where they were changed."""

import shutil
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from vitrail.cli.main import main
from vitrail.errors import CheckpointError, UsageError
from vitrail.inference.engines import openvino as engine
from vitrail.inference.exported import read_info
from vitrail.inference.load_any import load_any
from vitrail.inference.open_engine import open_file

openvino = pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def exported(run):
    assert main(["export", str(run), "--format", "openvino"]) == 0
    return run / "export" / "openvino"


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(2).integers(0, 256, (7, 3, 32, 32), np.uint8)


def test_it_answers_as_torch_does(run, exported, pixels):
    ours = load_any(exported).predict(torch.from_numpy(pixels)).probabilities
    torch.testing.assert_close(ours, load_any(run).predict(torch.from_numpy(pixels)).probabilities, rtol=0, atol=1e-5)


def test_the_file_says_what_it_is(exported):
    model = openvino.Core().read_model(exported / "model.xml")
    assert model.get_rt_info(["vitrail", "classes"]).astype(str) == '["0", "1", "2"]'
    assert sorted(one.name for one in exported.iterdir()) == ["model.bin", "model.json", "model.xml", "proof.json"]


def test_in_fp32_unless_asked(exported, pixels):
    """OpenVINO alone takes bf16 where the processor has it."""
    opened = engine.build(engine.Config()).open(exported / "model.xml", ("probabilities",), 1)
    assert opened.compiled.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32
    assert opened.name == "openvino"
    assert engine.build(engine.Config("bf16")).open(exported / "model.xml", ("probabilities",), 1).name.endswith("bf16")


def test_threads_at_once(exported, pixels):
    opened = engine.build(engine.Config()).open(exported / "model.xml", ("probabilities",), 1)
    one_by_one = [opened.run(pixels[i : i + 1], None)["probabilities"] for i in range(7)]
    with ThreadPoolExecutor(4) as pool:
        at_once = list(pool.map(lambda i: opened.run(pixels[i : i + 1], None)["probabilities"], list(range(7)) * 5))
    for i, rows in enumerate(at_once):
        np.testing.assert_array_equal(rows, one_by_one[i % 7])


def test_an_answer_stays_as_it_was(exported, pixels):
    """Not memory that the next call writes to."""
    opened = engine.build(engine.Config()).open(exported / "model.xml", ("probabilities",), 1)
    rows = opened.run(pixels[:1], None)["probabilities"]
    before = rows.copy()
    opened.run(pixels[1:2], None)
    np.testing.assert_array_equal(rows, before)


def test_changed_weights_are_refused(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "changed")
    with (tmp_path / "changed" / "model.bin").open("r+b") as file:
        file.seek(100)
        file.write(b"\1\2\3\4")
    with pytest.raises(CheckpointError, match=r"model\.bin was changed"):
        load_any(tmp_path / "changed")
    path = tmp_path / "changed" / "model.xml"
    path.write_text(path.read_text().replace("weights_sha256", "other"))
    with pytest.raises(CheckpointError, match="does not say which weights"):
        open_file(path, read_info(exported)[0])


@pytest.mark.slow
def test_it_opens_onnx_too_and_no_other_file(run, tmp_path, pixels, exported):
    assert main(["export", str(run), "--out", str(tmp_path / "onnx")]) == 0
    there = load_any(tmp_path / "onnx", "openvino").predict(torch.from_numpy(pixels)).probabilities
    here = load_any(exported).predict(torch.from_numpy(pixels)).probabilities
    torch.testing.assert_close(there, here, rtol=0, atol=1e-6)
    (tmp_path / "noise.xml").write_text("<net>")
    with pytest.raises(CheckpointError, match="no model that OpenVINO runs"):
        engine.build(engine.Config()).open(tmp_path / "noise.xml", ("probabilities",), 1)


def test_without_the_package(monkeypatch, run, exported, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert main(["export", str(run), "--format", "openvino", "--out", str(tmp_path / "x")]) == 2
    assert "pip install 'vitrail[openvino]'" in capsys.readouterr().err
    with pytest.raises(UsageError, match="not installed"):
        engine.build(engine.Config()).open(exported / "model.xml", ("probabilities",), 1)
