"""Parts of an export on their own, without a trained model: each check sees what it is there for."""

import dataclasses

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

import vitrail
from vitrail.assembly.save import bundle_of
from vitrail.data.transforms.preprocess import Preprocess
from vitrail.errors import RunError, UsageError, VitrailError
from vitrail.evaluation.difference import Change
from vitrail.export.contract import TracedGraph
from vitrail.export.folders import choose_folder, new_folder, refuse_existing
from vitrail.export.formats.onnx import check_shapes, convert
from vitrail.export.images import embedded_images
from vitrail.export.metadata import describe_resize, file_metadata, new_info
from vitrail.export.outliers import find_noisy
from vitrail.export.proof import Proof, Row, Timing, other_sizes, summarise
from vitrail.export.quantised import Int8Report
from vitrail.export.request import ExportRequest
from vitrail.export.tracing import trace
from vitrail.inference.engine import Engine
from vitrail.inference.engines.executorch import ExecutorchEngine
from vitrail.inference.graph import InferenceGraph
from vitrail.inference.open_engine import for_images


def bundle_with(channels=3, **keys):
    model = vitrail.create("vit/nano", classes=2, width=32, depth=1, heads=2, size=(16, 16), channels=channels, **keys)
    return bundle_of(model.eval(), None)


def proof_of(*rows):
    return Proof("images", rows, Timing(1.0, 1.0, 4), 1, 1)


@pytest.mark.parametrize(("error", "beyond", "failures"), [
    (0.99e-4, 0, 0), (1.01e-4, 0, 1), (float("inf"), 0, 1), (float("nan"), 0, 1), (0.0, 1, 1), (1.0, 1, 2),
])  # fmt: skip
def test_the_bound_of_the_proof(error, beyond, failures):
    good = Row("probabilities", 1, (8, 8), 0.0, 1, 0, 0)
    assert len(proof_of(good, Row("probabilities", 5, (8, 8), error, 5, beyond, beyond)).failures) == failures
    assert not proof_of(good).failures


def test_answers_of_all_cases_are_counted():
    rows = [Row("masks", n, (8, 8 + n), n * 1e-6, 10 * n, n, 0) for n in (1, 5)]
    (one,) = summarise(proof_of(*rows))
    assert (one.batches, one.sizes, one.answers, one.changed) == ("1, 5", "8x9, 8x13", 60, 6)
    assert one.error == rows[1].error


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (224, 224), (28, 30)])
def test_other_sizes_are_odd_twice_and_never_the_own(size):
    sizes = other_sizes(size, 16)
    assert sum(height % 2 or width % 2 for height, width in sizes) >= 2
    assert size not in sizes
    assert min(height for height, _ in sizes) > 16


class Odd(nn.Module):
    """A graph that no trace holds for every batch: it looks at its numbers."""

    least_size = 8

    def forward(self, images):
        return (images.float().mean((1, 2, 3)) if images.sum() > 0 else images.float().sum((1, 2, 3)),)


def test_what_cannot_be_traced_is_said():
    with pytest.raises(UsageError, match="cannot be traced for every batch: ") as error:
        trace(Odd(), (torch.zeros(2, 3, 8, 8),), any_size=False)
    assert "--format safetensors" in error.value.fix


def test_an_operation_that_onnx_has_not_is_said(monkeypatch):
    def refuse(*given, **keys):
        raise RuntimeError("\x1b[96mstep 3/3\x1b[0m") from ValueError("\n no \x1b[96msuch\x1b[0m operation \n more")

    monkeypatch.setattr(torch.onnx, "export", refuse)
    bundle = bundle_with()
    traced = TracedGraph(InferenceGraph(bundle), bundle, False)
    traced.__dict__["program"] = None
    with pytest.raises(UsageError, match="cannot be written as ONNX: no such operation") as error:
        convert(traced, 18)
    assert error.value.fix == "--format torch writes it"


@pytest.mark.parametrize(("shape", "any_size", "output", "piece"), [
    (["batch", 3, 16, 16], False, "probabilities", ""),
    ([2, 3, 16, 16], False, "probabilities", "fixed axis 0 of images (2)"),
    (["batch", 3, "h", "w"], True, "probabilities", ""),
    (["batch", 3, "h", 16], True, "probabilities", "fixed axis 3 of images (16)"),
    (["batch", 3, 16, 16], False, "other", "the outputs other"),
])  # fmt: skip
def test_axes_and_outputs_of_a_written_file(shape, any_size, output, piece, tmp_path):
    given = helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)
    answer = helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)
    graph = helper.make_graph([helper.make_node("Identity", ["images"], [output])], "g", [given], [answer])
    onnx.save(helper.make_model(graph), tmp_path / "model.onnx")
    bundle = bundle_with()
    traced = TracedGraph(InferenceGraph(bundle), bundle, any_size)
    if not piece:
        check_shapes(tmp_path / "model.onnx", traced)
        return
    with pytest.raises(RunError) as error:
        check_shapes(tmp_path / "model.onnx", traced)
    assert piece in error.value.what


@pytest.mark.parametrize(("keys", "name"), [
    ({}, "onnx"), ({"int8": True}, "onnx-int8"), ({"merge": 8}, "onnx-merge-8"), ({"format": "html"}, "html"),
    ({"int8": True, "merge": "half"}, "onnx-int8-merge-half"), ({"merge": 0}, "onnx-merge-0"),
])  # fmt: skip
def test_where_an_export_goes(keys, name, tmp_path):
    """Into the folder of the source, or beside a file; each kind into one of its own."""
    request, file = ExportRequest(**keys), tmp_path / "a.safetensors"
    file.touch()
    assert choose_folder(request, None, tmp_path, tmp_path) == tmp_path / "export" / name
    assert choose_folder(request, None, file, file) == tmp_path / "export" / name
    assert choose_folder(request, tmp_path / "out", tmp_path, tmp_path) == tmp_path / "out"


def test_a_link_is_not_replaced(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "model.json").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(UsageError, match="is no export"):
        refuse_existing(tmp_path / "link", overwrite=True)
    refuse_existing(tmp_path / "real", overwrite=True)
    refuse_existing(tmp_path / "nothing", overwrite=False)


def test_a_failure_leaves_no_folder_that_was_made_for_it(tmp_path):
    with pytest.raises(ValueError, match="x"), new_folder(tmp_path / "a" / "b" / "c"):
        raise ValueError("x")
    assert not list(tmp_path.iterdir())


def test_the_licence_is_in_the_file():
    bundle = dataclasses.replace(bundle_with(), origin={"licence": "CC-BY-NC-4.0"})
    info = new_info(bundle, InferenceGraph(bundle), "onnx", "model.onnx", "")
    assert info.licence == file_metadata(bundle, info)["licence"] == "CC-BY-NC-4.0"


@pytest.mark.parametrize(("mode", "piece"), [
    ("stretch", "whatever the aspect ratio"), ("crop", "height x 0.9 >= 16"), ("fit", "pad below"),
    ("slide", "windows"), ("tile", "keep its size"),
])  # fmt: skip
def test_the_resize_in_words(mode, piece):
    pre = Preprocess((16, 24), 3, (0.5,) * 3, (0.5,) * 3, mode, 0.9, "bicubic")
    assert piece in describe_resize(pre)
    assert describe_resize(pre).endswith("bicubic with antialiasing, rounded to uint8")


def test_images_where_there_are_none():
    """Embedded ones, whatever the model's channels."""
    for channels in (1, 3, 5):
        found = embedded_images(bundle_with(channels=channels), 3, VitrailError("gone"))
        assert found.sentence.startswith("3 embedded images of clothes: there is no data")
        assert len(found.pixels) == 3
        assert not found.are_own


def test_outliers_are_found():
    calm = np.random.default_rng(0).normal(size=(4, 8, 16)).astype(np.float32)
    wild = calm.copy()
    wild[0, 0, 0] = 1000.0
    assert find_noisy([{"calm": calm, "wild": calm}, {"calm": calm, "wild": wild}]) == {"wild"}


def test_what_int8_gains_and_costs_in_words():
    change = Change("top1", 0.8, 0.79, -0.02, 0.0, 100, "bootstrap")
    report = Int8Report("m", "c", "100 images", change, 100, 3, 2.0, 1.0, 4_000_000, 1_000_000)
    assert report.loss == pytest.approx(0.01)
    assert "is 2.00 times as fast" in report.sentences()[2]
    assert "-1.00 points" in report.sentences()[1]
    same = dataclasses.replace(report, int8_ms=1.99, change=None, evaluated="no data")
    assert "gains no speed here" in same.sentences()[2]
    assert same.sentences()[1] == "accuracy was not measured: no data"
    assert same.loss == 0


class Recorder(Engine):
    name = "recorder"

    def run(self, images, sizes):
        return {"images": images}


def test_floats_for_a_file_that_takes_them():
    bundle = bundle_with()
    info = new_info(bundle, InferenceGraph(bundle, "float32"), "onnx", "model.onnx", "")
    pixels = np.array([[[[0, 255]]]], np.uint8)
    given = for_images(Recorder(), info).run(pixels, np.zeros((1, 2), np.int64))["images"]
    assert given.dtype == np.float32
    assert given.max() == 1.0
    same = for_images(Recorder(), dataclasses.replace(info, image_type="uint8"))
    assert same.run(pixels, np.zeros((1, 2), np.int64))["images"] is pixels


class FakeMethod:
    """An ExecuTorch method: it answers in memory that its next call writes to."""

    def __init__(self, inputs):
        self.inputs, self.memory, self.calls = inputs, torch.zeros(1, 2), []
        self.metadata = self

    def num_inputs(self):
        return self.inputs

    def execute(self, given):
        self.calls.append([tuple(one.shape) for one in given])
        self.memory[:] = given[0].float().mean()
        return [self.memory]


@pytest.mark.parametrize("inputs", [1, 2])
def test_executorch_takes_one_image_at_a_time(inputs):
    method = FakeMethod(inputs)
    program = type("Program", (), {"load_method": lambda self, name: method})()
    images = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 4, 4), np.uint8)
    rows = ExecutorchEngine(program, ("probabilities",)).run(images, np.full((3, 2), 4))["probabilities"]
    assert rows[:, 0].tolist() == [0.0, 1.0, 2.0]
    assert method.calls == [[(1, 3, 4, 4), (1, 2)][:inputs]] * 3
