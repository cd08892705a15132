"""Export folders that were tampered with: refused with the reason, and no file beside the hashed one is read."""

import hashlib
import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from vitrail.assembly.model import assemble_model, describe_bundle
from vitrail.cli.main import main
from vitrail.errors import CheckpointError, UsageError, VitrailError
from vitrail.inference.exported import ExportInfo, info_json
from vitrail.inference.load_any import load_any
from vitrail.inference.open_engine import open_file
from vitrail.recipe import Choice, InputConfig, Recipe


@pytest.fixture
def folder(tmp_path):
    """An export folder by hand: a graph of one addition, whose weights are in the file."""
    keys = {"width": 32, "depth": 1, "heads": 2, "patch": 8}
    given = InputConfig((16, 16), 1, (0.5,), (0.5,), "stretch")
    recipe = Recipe(model=Choice("vit/nano", keys), input=given, task=Choice("classification"))
    bundle = assemble_model(recipe, ("a", "b"))
    write_graph(tmp_path, "")
    info = ExportInfo(
        file="model.onnx", export_format="onnx", inputs=("images",), outputs=("probabilities",), image_type="uint8",
        size=(16, 16), any_size=False, sha256="", source_sha256="0" * 64, version="0",
    )  # fmt: skip
    (tmp_path / "model.json").write_bytes(info_json(info, describe_bundle(bundle), {}))
    rehash(tmp_path)
    return tmp_path


def write_graph(folder, location):
    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4])
    if location:
        weights.data_location = TensorProto.EXTERNAL
        entry = weights.external_data.add()
        entry.key, entry.value = "location", location
    else:
        weights.raw_data = np.zeros(4, np.float32).tobytes()
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("images", "probabilities")]
    graph = helper.make_graph(
        [helper.make_node("Add", ["images", "w"], ["probabilities"])], "g", values[:1], values[1:], [weights]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def rehash(folder):
    change(folder, "sha256", hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest())


def change(folder, key, value):
    about = json.loads((folder / "model.json").read_text())
    about["export"][key] = value
    (folder / "model.json").write_text(json.dumps(about))


def test_it_opens(folder):
    assert load_any(folder).classes == ("a", "b")


@pytest.mark.parametrize("location", ["beside.bin", "../outside.bin", "/etc/hostname"])
def test_weights_in_other_files_are_not_read(folder, location, monkeypatch):
    np.zeros(4, np.float32).tofile(folder / "beside.bin")
    write_graph(folder, location)
    rehash(folder)
    monkeypatch.chdir(folder)  # where engines look too
    for engine in ("onnx", "openvino"):
        with pytest.raises(CheckpointError, match="weights in other files, which are not read"):
            load_any(folder, engine)


def test_a_word_in_the_file_is_no_other_file(folder):
    model = onnx.load(folder / "model.onnx")
    helper.set_model_props(model, {"classes": '["location"]'})
    onnx.save(model, folder / "model.onnx")
    rehash(folder)
    assert load_any(folder).classes == ("a", "b")


def test_an_engine_that_does_not_fit(folder):
    with pytest.raises(UsageError, match=r"opens \.xml and \.onnx files, not model\.pte"):
        open_file(folder / "model.pte", None, "openvino")
    with pytest.raises(UsageError, match="computes in fp32 only"):
        load_any(folder, precision="bf16")
    (folder / "model.onnx").unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        open_file(folder / "model.onnx", None)


@pytest.mark.parametrize(("key", "value"), [
    ("file", "../model.onnx"), ("file", "/etc/passwd"), ("file", ".."), ("file", ""), ("file", 3), ("file", "a.exe"),
    ("file", "a\0.onnx"), ("file", "\ud800.onnx"), ("any_batch", 1),
    ("size", [16]), ("size", [-1, 16]), ("size", ["a", 2]), ("image_type", "int8"), ("outputs", "probabilities"),
    ("any_size", "yes"), ("sha256", "0" * 64), ("sha256", None), ("export_format", ["x"]),
])  # fmt: skip
def test_a_field_that_is_wrong(folder, key, value, capsys):
    change(folder, key, value)
    with pytest.raises(VitrailError):
        load_any(folder)
    assert main(["predict", str(folder), str(folder / "none.png")]) in (2, 3, 4)
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "[]", "null", "{", '{"export": 3}', '{"export": {}}', "\x00", "[" * 100000])
def test_a_sidecar_that_is_none(folder, content):
    (folder / "model.json").write_text(content)
    with pytest.raises(CheckpointError):
        load_any(folder)


def test_a_file_that_is_no_model(folder):
    (folder / "model.onnx").write_bytes(b"\x08\x09garbage")
    rehash(folder)
    with pytest.raises(CheckpointError, match="is no model"):
        load_any(folder)


def test_outputs_that_the_file_has_not(folder):
    change(folder, "outputs", ["probabilities", "secrets"])
    with pytest.raises(CheckpointError, match="secrets"):
        load_any(folder)
