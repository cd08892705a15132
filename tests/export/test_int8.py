"""Int8: calibrated on training images, measured on held-out ones, refused where it loses too much."""

import dataclasses
import json
import shutil
import sys

import numpy as np
import onnx
import pytest

from vitrail.cli.main import main
from vitrail.engine.processes import world as worlds
from vitrail.errors import UsageError
from vitrail.evaluation.difference import measure_change
from vitrail.evaluation.engine_reader import EngineReader
from vitrail.evaluation.subject import SubjectRequest, evaluate_readable
from vitrail.export import quantised
from vitrail.export.images import ProofImages
from vitrail.export.int8_data import read_int8_images
from vitrail.export.request import ExportRequest, ExportSubject
from vitrail.inference.load_any import load_any
from vitrail.recipe import DataConfig


@pytest.fixture(scope="module")
def exported(run):
    assert main(["export", str(run), "--int8", "--force"]) == 0
    return run / "export" / "onnx-int8"


def operations(folder):
    return [node.op_type for node in onnx.load(folder / "model.onnx").graph.node]


def test_linear_and_convolution_layers_are_calibrated(exported):
    """Four linear layers a block, the head, and convolutions; nothing else."""
    graph = onnx.load(exported / "model.onnx").graph
    makers = {out: node.op_type for node in graph.node for out in node.output}
    layers = [node for node in graph.node if node.op_type in ("MatMul", "Gemm", "Conv")]
    quantised_layers = [n for n in layers if makers.get(n.input[1]) == "DequantizeLinear"]
    assert len(quantised_layers) == 2 * 4 + 1 + sum(n.op_type == "Conv" for n in layers)
    assert len(layers) == len(quantised_layers) + 2 * 2  # products of two activations, in each block's attention
    assert makers[next(n for n in graph.node if n.op_type == "Softmax").input[0]] != "DequantizeLinear"


def test_the_sidecar_says_how(exported):
    about = json.loads((exported / "model.json").read_text())
    assert about["export"]["precision"] == "int8"
    assert about["int8"]["calibration"] == "calibrated on 20 training images"
    assert about["int8"]["change"]["metric"] == "top1"
    assert about["int8"]["change"]["low"] <= 0 <= about["int8"]["change"]["high"]
    assert about["int8"]["int8_bytes"] < about["int8"]["fp32_bytes"]
    texts = {one.key: one.value for one in onnx.load(exported / "model.onnx").metadata_props}
    assert texts["precision"] == "int8"
    assert json.loads(texts["classes"]) == about["classes"]
    assert not list(exported.glob(".*"))


@pytest.mark.slow
def test_the_same_twice(run, exported, tmp_path):
    assert main(["export", str(run), "--int8", "--force", "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "model.onnx").read_bytes() == (exported / "model.onnx").read_bytes()


@pytest.mark.slow
def test_too_great_a_loss_is_refused(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(quantised, "MOST_LOSS", -2.0)  # no gain is that great
    words = ["export", str(run), "--int8", "--out", str(tmp_path / "refused")]
    assert main(words) == 1
    message = " ".join(capsys.readouterr().err.split())
    assert "int8 loses too much" in message
    assert "--force keeps it" in message
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_without_data(run, tmp_path, capsys):
    """Scales are found at run time, and what is not measured is said."""
    shutil.copy(run / "model.safetensors", tmp_path / "alone.safetensors")
    assert main(["export", str(tmp_path / "alone.safetensors"), "--int8", "--out", str(tmp_path / "out")]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "not calibrated" in text
    assert "accuracy was not measured" in text
    found = operations(tmp_path / "out")
    assert "MatMulInteger" in found
    assert "Conv" in found
    assert "ConvInteger" not in found


def test_other_data(run, data, tmp_path):
    """With its training part; without one every second image calibrates."""
    loaded = load_any(run)
    own = read_int8_images(SubjectRequest(str(run)), loaded.bundle)
    assert (len(own.calibration), len(own.held_out.split)) == (20, 9)
    given = read_int8_images(SubjectRequest(str(tmp_path / "nowhere"), str(data)), loaded.bundle)
    assert (len(given.calibration), len(given.held_out.split)) == (20, 9)
    with np.load(data) as arrays:
        np.savez(tmp_path / "test.npz", **{f"test_{k}": arrays[f"test_{k}"] for k in ("images", "labels")})
    half = read_int8_images(SubjectRequest(str(tmp_path / "nowhere"), str(tmp_path / "test.npz")), loaded.bundle)
    assert (len(half.calibration), len(half.held_out.split)) == (5, 4)


def test_formats_without_int8():
    with pytest.raises(UsageError, match="has no int8"):
        quantised.check_quantiser(ExportRequest("executorch", int8=True))


def test_what_openvino_has_not_is_said_before_anything_is_written(run, tmp_path, monkeypatch):
    for key in ("openvino", "nncf"):
        monkeypatch.setitem(sys.modules, key, None)  # nor is it asked for
    with pytest.raises(UsageError, match="openvino has no dynamic int8"):
        quantised.check_quantiser(ExportRequest("openvino", int8=True, dynamic=True))
    shutil.copy(run / "model.safetensors", tmp_path / "alone.safetensors")
    bundle = load_any(run).bundle
    alone = dataclasses.replace(bundle, recipe=dataclasses.replace(bundle.recipe, data=DataConfig()))
    subject = ExportSubject(alone, str(tmp_path / "alone.safetensors"), "", ProofImages([], ""))
    with pytest.raises(UsageError, match=r"is calibrated on images, and the data of the run cannot be read") as error:
        quantised.read_quantising(subject, ExportRequest("openvino", int8=True))
    assert "--data FOLDER" in error.value.fix
    assert not quantised.read_quantising(subject, ExportRequest("onnx", int8=True)).calibration


def test_an_engine_is_evaluated_as_the_model_is(run):
    predictor = load_any(run)
    subject, result = evaluate_readable(SubjectRequest(str(run)), predictor, worlds.join("cpu"))
    evaluator = predictor.task.evaluator()
    predictions = evaluator.predictions(EngineReader(predictor, subject.split))
    np.testing.assert_allclose(predictions.rows, result.predictions.rows, atol=1e-6)
    assert evaluator.metrics(predictions)["top1"] == result.metrics["top1"]
    same = measure_change(predictor.task, predictions, predictions)
    assert (same.value, same.low, same.high, same.images) == (0, 0, 0, 9)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["vit/nano", "pvt_v2/b0"])  # in the other layers share their inputs
def test_openvino_by_nncf(run, model, capsys, tmp_path, data):
    pytest.importorskip("nncf")
    out, source = tmp_path / "out", run
    if model != "vit/nano":
        source = tmp_path / "run"
        words = ["--model.widths", "16", "16", "40", "32", "--model.depths", "1", "1", "1", "1", "--steps", "1"]
        words = [*words, "--data", str(data), "--model", model, "--workers", "0", "--out", str(source)]
        assert main(["train", *words]) == 0
        capsys.readouterr()
    words = ["--format", "openvino", "--int8", "--force", "--out", str(out), "--json"]
    assert main(["export", str(source), *words]) == 0
    assert "NNCF" in json.loads(capsys.readouterr().out)["int8"]["method"]
    assert 'element_type="i8"' in (out / "model.xml").read_text()
    assert load_any(out).predict(np.zeros((32, 32, 3), np.uint8)).probabilities.shape == (1, 3)
