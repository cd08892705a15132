"""What export refuses: one sentence, the right exit code, and nothing that is left half-written."""

import os
import shutil

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import vitrail
from vitrail.assembly.model import assemble_model
from vitrail.assembly.save import save_model
from vitrail.cli.main import main
from vitrail.errors import RunError, UsageError
from vitrail.export import compare, exporter
from vitrail.export.compare import compare_boxes, compare_classes, compare_masks, relative_error
from vitrail.export.folders import new_folder
from vitrail.export.formats import onnx as onnx_format
from vitrail.export.formats.onnx import OnnxFormat
from vitrail.inference.exported import INFO
from vitrail.inference.torch_engine import TorchEngine
from vitrail.recipe import Choice, InputConfig, Recipe


def message(capsys):
    return " ".join(capsys.readouterr().err.split())


def perturb(path):
    """The same file with weights that are a little different."""
    model = onnx.load(path)
    for one in model.graph.initializer:
        array = numpy_helper.to_array(one)
        if array.dtype == np.float32 and array.ndim > 1:
            one.CopyFrom(numpy_helper.from_array(array + np.float32(0.01), one.name))
    onnx.save(model, path)


@pytest.fixture
def broken(monkeypatch):
    write = OnnxFormat.write

    def write_and_perturb(self, traced, metadata, path):
        write(self, traced, metadata, path)
        perturb(path)

    monkeypatch.setattr(OnnxFormat, "write", write_and_perturb)


def test_a_broken_file_is_refused(run, tmp_path, broken, capsys):
    """Exit 1, nothing in its place, and an earlier export stays as it was."""
    copy = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("export"))
    earlier = copy / "export" / "onnx"
    earlier.mkdir(parents=True)
    (earlier / "model.json").write_text("{}")
    assert main(["export", str(copy), "--overwrite"]) == 1
    said = message(capsys)
    assert "is not the model: probabilities differ by" in said
    assert "nothing was written" in said
    assert [path.name for path in (copy / "export").rglob("*")] == ["onnx", "model.json"]


def test_a_run_without_weights(run, tmp_path, capsys):
    copy = shutil.copytree(
        run, tmp_path / "run", ignore=shutil.ignore_patterns("*.safetensors", "checkpoints", "best*")
    )
    assert main(["export", str(copy)]) == 4
    assert "has no weights yet" in message(capsys)


def test_no_such_run(own_folder, capsys):
    assert main(["export", "runs/none"]) == 4
    assert "there is no run runs/none" in message(capsys)


def test_a_missing_package(run, monkeypatch, capsys):
    monkeypatch.setattr(onnx_format, "find_spec", lambda name: None if name == "onnxscript" else name)
    assert main(["export", str(run)]) == 2
    said = message(capsys)
    assert "needs onnxscript" in said
    assert "pip install 'vitrail[onnx]'" in said


def test_data_that_is_none(run, tmp_path, capsys):
    assert main(["export", str(run), "--data", str(tmp_path / "nothing"), "--out", str(tmp_path / "out")]) == 3
    assert not (tmp_path / "out").exists()


def test_a_part_without_data(run, capsys):
    assert main(["export", str(run), "--split", "test"]) == 2
    assert "--data FOLDER" in message(capsys)


def test_a_denoiser(tmp_path, capsys):
    keys = {"width": 32, "depth": 3, "heads": 2, "classes": 2, "context_start": 1}
    given = InputConfig((16, 16), 3, (0.5,) * 3, (0.5,) * 3, "crop")
    recipe = Recipe(model=Choice("jit/nano", keys), input=given, task=Choice("diffusion"))
    save_model(assemble_model(recipe, ("a", "b")), tmp_path / "flow")
    assert main(["export", str(tmp_path / "flow")]) == 2
    said = message(capsys)
    assert "generates images" in said
    assert "vitrail sample" in said


def test_weights_beyond_one_file(run, monkeypatch):
    monkeypatch.setattr(onnx_format, "MOST_BYTES", 1000)
    with pytest.raises(UsageError, match="one ONNX file holds"):
        vitrail.export(run, out=run / "export" / "large")


def test_a_full_disk_leaves_nothing(run, tmp_path, monkeypatch):
    def full(self, traced, metadata, path):
        path.write_bytes(b"some")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(OnnxFormat, "write", full)
    with pytest.raises(UsageError, match="No space left"):
        vitrail.export(run, out=tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("when", [1, 2])
def test_an_interrupt_leaves_the_earlier_export(tmp_path, monkeypatch, when):
    """Ctrl-C after the old folder was moved out of the way, or after the new one has its place."""
    folder = tmp_path / "onnx"
    folder.mkdir()
    (folder / INFO).write_text("old")
    rename, calls = os.rename, []

    def interrupted(*paths):
        rename(*paths)
        calls.append(paths)
        if len(calls) == when:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), new_folder(folder) as temporary:
        (temporary / INFO).write_text("new")
    assert (folder / INFO).read_text() == ("old" if when == 1 else "new")
    assert [path.name for path in tmp_path.iterdir()] == ["onnx"]


def test_a_proof_on_other_images(run, tmp_path, monkeypatch):
    """Without the run's data its own images stand in, and that is said."""
    vitrail.save(vitrail.load(run), tmp_path / "model")

    def fail(subject, *rest):
        raise RunError(subject.images.sentence)

    monkeypatch.setattr(exporter, "write_and_prove", fail)
    with pytest.raises(RunError, match="embedded images of clothes"):
        vitrail.export(tmp_path / "model")


def test_answers_within_their_margin():
    """A tie that falls the other way by less than the error is no other answer; a clear one is."""
    near = {"probabilities": np.array([[0.5, 0.50001], [0.9, 0.1]])}
    turned = {"probabilities": np.array([[0.50001, 0.5], [0.9, 0.1]])}
    one = compare_classes(turned, near, False)
    assert (one.answers, one.changed, one.beyond) == (2, 1, 0)
    clear = {"probabilities": np.array([[0.5, 0.50001], [0.1, 0.9]])}
    assert compare_classes(clear, near, False).beyond == 1
    assert compare_classes(turned, near, True).beyond == 0


def test_not_finite_is_no_agreement():
    a = np.array([1.0, np.nan])
    assert relative_error(a, np.array([1.0, 2.0])) == float("inf")
    assert relative_error(a, a) == 0.0
    assert relative_error(np.zeros(2), np.zeros(3)) == float("inf")
    assert relative_error(np.array([1.0, np.inf]), np.array([1.0, -np.inf])) == float("inf")
    assert relative_error(np.array([1.0, np.inf]), np.array([1.0, np.nan])) == float("inf")
    boxes = np.ones((1, 2, 6))
    for ours, theirs in ((boxes, boxes * np.nan), (boxes * np.nan, boxes)):
        assert compare_boxes({"boxes": ours}, {"boxes": theirs}, False) == (float("inf"), 2, 2, 2)


def test_a_model_that_answers_with_nan_is_not_exported(run, tmp_path, monkeypatch):
    run_torch = TorchEngine.run
    broken = lambda self, *given: {name: v * np.nan for name, v in run_torch(self, *given).items()}  # noqa: E731
    monkeypatch.setattr(TorchEngine, "run", broken)
    with pytest.raises(RunError, match="probabilities of the model itself are not finite"):
        vitrail.export(run, format="safetensors", out=tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_tie_of_two_classes_of_a_box(monkeypatch):
    """The same score, another class: once in so many boxes; more often, or with another score, it is a fault."""
    monkeypatch.setattr(compare, "TIES", 10)
    rows = np.random.default_rng(0).random((1, 20, 6)) * [9, 9, 9, 9, 1, 0]

    def beyond(count, score=0.0):
        other = rows.copy()
        other[0, :count, 4] += score
        other[0, :count, 5] = 1
        return compare_boxes({"boxes": other}, {"boxes": rows}, False).beyond

    assert (beyond(1), beyond(2), beyond(3)) == (0, 0, 3)
    assert beyond(1, 0.001) == 1


def test_masks_and_boxes():
    logits = np.array([[[[1.0, 3.0]], [[2.0, 3.00001]]]])  # two classes, two pixels
    masks = {"logits": logits, "masks": np.array([[[1, 1]]], np.uint8)}
    other = {"logits": logits, "masks": np.array([[[0, 0]]], np.uint8)}
    found = compare_masks(other, masks, False)
    assert (found.changed, found.beyond) == (2, 1)
    rows = np.array([[[0, 0, 9, 9, 0.5, 1], [1, 1, 5, 5, 0.5, 0]]], np.float32)
    swapped = compare_boxes({"boxes": rows[:, ::-1]}, {"boxes": rows}, False)
    assert (swapped.error, swapped.changed) == (0.0, 0)
    wrong = rows.copy()
    wrong[0, 0, 5] = 0
    assert compare_boxes({"boxes": wrong}, {"boxes": rows}, False).beyond == 1
