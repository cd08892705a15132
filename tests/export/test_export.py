"""`vitrail export`: what is in the folder, what it refuses, and that nothing is left of an export that failed."""

import hashlib
import json
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

import vitrail
from vitrail.cli.main import main
from vitrail.errors import CheckpointError, UsageError
from vitrail.inference.load_any import find_export, load_any


@pytest.fixture(scope="module")
def exported(run):
    assert main(["export", str(run)]) == 0
    return run / "export" / "onnx"


@pytest.fixture(scope="module")
def images():
    random = np.random.default_rng(1)
    return [random.integers(0, 256, (24 + i, 40, 3), np.uint8) for i in range(5)]


def message(capsys):
    return " ".join(capsys.readouterr().err.split())


def test_the_sidecar_says_what_the_file_is(run, exported):
    about = json.loads((exported / "model.json").read_text())
    info = about["export"]
    assert hashlib.sha256((exported / info["file"]).read_bytes()).hexdigest() == info["sha256"]
    assert hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest() == info["source_sha256"]
    assert about["classes"] == ["0", "1", "2"]
    assert about["inputs"]["images"]["shape"] == ["batch", 3, "any height", "any width"]
    assert "antialias" in about["inputs"]["images"]["resize"]


def test_the_file_says_it_too(exported):
    texts = {one.key: one.value for one in onnx.load(exported / "model.onnx").metadata_props}
    about = json.loads((exported / "model.json").read_text())
    assert json.loads(texts["classes"]) == about["classes"]
    assert json.loads(texts["mean"]) == about["recipe"]["input"]["mean"]
    assert json.loads(texts["size"]) == [32, 32]
    assert texts["source_sha256"] == about["export"]["source_sha256"]
    assert texts["licence"] == "not stated"
    assert texts["version"].startswith("vitrail ")


def test_without_vitrail(run, exported):
    """ONNX Runtime alone: bytes in, probabilities out, of any batch."""
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    pixels = np.random.default_rng(2).integers(0, 256, (7, 3, 32, 32), np.uint8)
    (rows,) = session.run(None, {"images": pixels})
    ours = load_any(run).predict(torch.from_numpy(pixels)).probabilities
    assert np.abs(rows - ours.numpy()).max() < 1e-6


def test_predicts_like_the_run(run, exported, images):
    ours, theirs = load_any(run).predict(images), load_any(exported).predict(images)
    assert theirs.classes == ours.classes
    assert (ours.probabilities - theirs.probabilities).abs().max() < 1e-6
    again = load_any(run, "onnx").predict(images)
    assert torch.equal(again.probabilities, theirs.probabilities)


def test_the_proof_is_kept(exported):
    proof = json.loads((exported / "proof.json").read_text())
    assert proof["passed"]
    assert {row["batch"] for row in proof["rows"]} == {1, 2, 5, 9}
    assert max(row["error"] for row in proof["rows"]) < 1e-5
    assert "the test part" in proof["images"]


def test_nothing_is_overwritten(run, exported, capsys):
    assert main(["export", str(run)]) == 2
    assert "--overwrite" in message(capsys)


def test_other_files_are_never_replaced(run, tmp_path, capsys):
    (tmp_path / "mine").write_text("x")
    assert main(["export", str(run), "--out", str(tmp_path), "--overwrite"]) == 2
    assert "is no export" in message(capsys)
    assert (tmp_path / "mine").read_text() == "x"


def test_a_changed_file_is_refused(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "copy")
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(CheckpointError, match="was changed"):
        load_any(folder)


def test_an_unknown_format_is_answered_with_the_nearest(run, capsys):
    assert main(["export", str(run), "--format", "onx"]) == 2
    assert "did you mean 'onnx'" in message(capsys)


def test_an_engine_without_its_export(data, run):
    with pytest.raises(UsageError, match="did you mean 'onnx'"):
        load_any(run, "onxx")


def sidecar(run, name, **fields):
    """An export beside others, of which only the sidecar is read."""
    about = json.loads((run / "export" / "onnx" / "model.json").read_text())
    about["export"] |= fields
    (run / "export" / name).mkdir()
    (run / "export" / name / "model.json").write_text(json.dumps(about))


def test_which_export_an_engine_takes(run, exported, tmp_path):
    """One of these weights, in fp32 before int8, of its own format before another."""
    copy = tmp_path / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("export", "checkpoints"))
    shutil.copytree(exported, copy / "export" / "onnx")
    sidecar(copy, "a-int8", precision="int8")
    sidecar(copy, "stale", source_sha256="0" * 64)
    sidecar(copy, "openvino", file="model.xml", export_format="openvino")
    assert find_export(copy, "onnx").name == "onnx"
    assert find_export(copy, "openvino").name == "openvino"
    shutil.rmtree(copy / "export" / "onnx")
    assert find_export(copy, "onnx").name == "a-int8"
    shutil.rmtree(copy / "export" / "a-int8")
    with pytest.raises(UsageError, match="an export of other weights") as error:
        load_any(copy, "onnx")
    assert error.value.fix == f"vitrail export {copy} --format onnx --overwrite"


def test_eval_of_an_export(run, exported, capsys):
    """The same metrics as the run's own, on the data of the run; its evaluation is not written over."""
    assert main(["eval", str(run), "--json"]) == 0
    ours = json.loads(capsys.readouterr().out)
    kept = (run / "evaluation" / "test.json").read_bytes()
    assert main(["eval", str(exported), "--json"]) == 0
    theirs = json.loads(capsys.readouterr().out)
    assert theirs["top1"] == ours["top1"]
    assert theirs["count"] == 9
    assert (run / "evaluation" / "test.json").read_bytes() == kept
    assert main(["eval", str(exported), "--img-size", "40", "40"]) == 2


def test_from_python(run, exported, images):
    with pytest.raises(UsageError, match="is there already"):
        vitrail.export(run)
    assert vitrail.load(exported)(images).labels == vitrail.load(run)(images).labels


def test_predict_command(exported, tmp_path, capsys):
    Image.fromarray(np.full((20, 20, 3), 7, np.uint8)).save(tmp_path / "one.png")
    assert main(["predict", str(exported), str(tmp_path / "one.png"), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["probabilities"]) == 3


def test_the_report_has_the_proof(run, exported):
    """A damaged proof is left out of the page, which is there all the same."""
    assert main(["report", str(run)]) == 0
    page = (run / "report.html").read_text()
    assert '<section id="exports">' in page
    assert "onnx/model.onnx" in page.replace("&#47;", "/")
    proof = (exported / "proof.json").read_bytes()
    try:
        (exported / "proof.json").write_text('{"rows": 3}')
        assert main(["report", str(run)]) == 0
        assert '<section id="exports">' not in (run / "report.html").read_text()
    finally:
        (exported / "proof.json").write_bytes(proof)


def test_torch_runs_no_exported_file(exported):
    with pytest.raises(UsageError, match="is an exported file"):
        load_any(exported, "torch")
    with pytest.raises(UsageError, match="run on the CPU"):
        load_any(exported, device="cuda")


@pytest.mark.slow
def test_python_takes_the_flags_of_the_command(run, data, tmp_path):
    result = vitrail.export(run, out=tmp_path / "merged", merge=1, split="test", data=str(data))
    assert "merge" in (tmp_path / "merged" / "model.json").read_text()
    assert result.folder == tmp_path / "merged"


@pytest.mark.parametrize(
    ("keys", "words"),
    [({"atention": True}, "attention"), ({"runtime": "x"}, "unknown key"), ({"merge": 1.5}, "merge is 1.5")],
)
def test_python_refuses_other_keys(run, keys, words):
    with pytest.raises(UsageError, match=words):
        vitrail.export(run, **keys)


def test_a_sidecar_of_two_sizes_is_refused(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "one")
    path = tmp_path / "one" / "model.json"
    about = json.loads(path.read_text())
    about["export"]["size"] = [14, 14]
    path.write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match="two sizes: 14x14 and 32x32"):
        vitrail.load(tmp_path / "one")
