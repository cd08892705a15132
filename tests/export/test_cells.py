"""A detector whose boxes are candidates: the file has them all and says which of two that overlap counts; whoever runs
it leaves the other out."""

import json

import numpy as np
import onnx
import pytest

import vitrail
from vitrail.cli.main import main
from vitrail.inference.predictor import load_predictor

WORDS = ["--data", "shapes", "--task", "detection", "--data.count-train", "8", "--data.count-val", "4",
         "--data.count-test", "0", "--model", "resnet/18", "--model.width", "8", "--model.depths", "1", "1", "1", "1",
         "--task.width", "16", "--task.convs", "1", "--task.nms-iou", "0.4", "--task.candidates", "60", "--steps", "1",
         "--batch-size", "4", "--precision", "fp32", "--workers", "0", "--quiet"]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("cells")
    assert main(["train", *WORDS, "--out", str(root / "run")]) == 0
    assert main(["export", str(root / "run"), "--format", "onnx", "--out", str(root / "onnx")]) == 0
    return root


def test_the_proof_holds_and_the_rule_is_stated(folder):
    proof = json.loads((folder / "onnx" / "proof.json").read_text())
    assert proof["passed"]
    assert max(row["error"] for row in proof["rows"]) <= 1e-5
    about = json.loads((folder / "onnx" / "model.json").read_text())
    assert "above 0.4 the better one counts" in about["outputs"]["boxes"]
    metadata = {one.key: one.value for one in onnx.load(folder / "onnx" / "model.onnx").metadata_props}
    assert json.loads(metadata["nms_iou"]) == 0.4
    assert "above 0.4" in json.loads(metadata["outputs"])["boxes"]


def test_duplicates_are_left_out_whatever_runs_it(folder):
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    [ours], [theirs] = (vitrail.load(folder / name).predict_scenes(pixels) for name in ("run", "onnx"))
    np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-3)
    assert 0 < len(ours) < 60
    predictor = load_predictor(folder / "run")
    all_of_them = predictor.task.predict(predictor.model, predictor.read(pixels))
    assert all_of_them.shape == (1, 60, 6)
