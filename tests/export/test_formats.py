"""Each format on one tiny model: attention as a further output, floats in, torch's own program."""

import dataclasses
import json

import numpy as np
import pytest
import torch

import vitrail
from vitrail import catalog
from vitrail.analysis.rollout import rollout
from vitrail.assembly.load import load_bundle
from vitrail.cli.main import main
from vitrail.cli.output.export_table import describe_images
from vitrail.errors import UsageError
from vitrail.export.exporter import find_format
from vitrail.inference.exported import ExportInfo, read_info
from vitrail.inference.load_any import load_any
from vitrail.inference.open_engine import open_file


@pytest.mark.slow
def test_attention_is_the_rollout(run, data, tmp_path):
    """Of any size in a plain ViT; the run's own images and values between 0 and 1."""
    result = vitrail.export(run, out=tmp_path / "a", attention=True, image_type="float32")
    assert result.info.outputs == ("probabilities", "attention")
    assert result.info.any_size
    bundle, _ = load_bundle(run)
    pixels = np.random.default_rng(3).integers(0, 256, (3, 3, 32, 32), np.uint8)
    engine = open_file(result.folder / "model.onnx", result.info)
    ours = engine.run(pixels, np.zeros((3, 2), np.int64))["attention"]
    mean, std = (torch.tensor(v)[:, None, None] for v in (bundle.recipe.input.mean, bundle.recipe.input.std))
    theirs = rollout(bundle.model, (torch.from_numpy(pixels).float() / 255 - mean) / std)
    torch.testing.assert_close(torch.from_numpy(ours), theirs, rtol=1e-4, atol=1e-6)
    assert json.loads((result.folder / "proof.json").read_text())["rows"][-1]["output"] == "attention"


def test_what_is_only_written_is_said(run, tmp_path):
    with pytest.raises(UsageError, match=r"only writes \.pt2 .* execute what such a file says"):
        open_file(tmp_path / "model.pt2", None)
    with pytest.raises(UsageError, match="weights alone"):
        open_file(tmp_path / "model.safetensors", None)
    with pytest.raises(UsageError, match="weights alone, which compute no attention"):
        vitrail.export(run, format="safetensors", attention=True, out=tmp_path / "out")


def example(**keys):
    info = ExportInfo("model.x", "x", ("images",), ("boxes",), "uint8", (32, 40), False, "", "", "0")
    return dataclasses.replace(info, **keys)


@pytest.mark.parametrize("name", ["onnx", "openvino", "torch", "executorch"])
def test_how_a_file_is_used_names_all_its_inputs(name):
    usage = find_format(name).describe(example(inputs=("images", "sizes")))
    assert "sizes" in usage[2]
    assert "sizes" not in find_format(name).describe(example())[2]


def test_what_a_file_takes_in_words():
    assert describe_images(example()) == "any batch, 32 x 40 pixels (height x width), images uint8"
    assert describe_images(example(any_batch=False)).startswith("one image at a time, ")
    assert describe_images(example(any_size=True)) == "any batch, any size, images uint8"
    assert describe_images(example(inputs=())) == "weights alone"
    assert [name for name in catalog.list_modules("export/formats") if not find_format(name).any_batch] == [
        "executorch", "html",
    ]  # fmt: skip


def test_no_rollout_is_said(tmp_path, capsys):
    model = vitrail.create("efficientvit/b0", classes=3, depths=(1, 1, 1, 1, 1), pre_logits=(32, 24), size=(64, 64))
    vitrail.save(model, tmp_path / "model")
    assert main(["export", str(tmp_path / "model"), "--attention"]) == 2
    assert "has no attention rollout" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "model" / "export").exists()


@pytest.mark.slow
def test_torch_program(run, tmp_path):
    """It runs with torch alone, at another size and batch; vitrail itself opens no program that a file holds."""
    result = vitrail.export(run, format="torch", out=tmp_path / "t")
    program = torch.export.load(result.folder / "model.pt2").module()
    pixels = torch.from_numpy(np.random.default_rng(4).integers(0, 256, (7, 3, 41, 55), np.uint8))
    (rows,) = program(pixels)
    assert rows.shape == (7, 3)
    assert read_info(result.folder)[0].any_size
    extra = {"classes": ""}
    torch.export.load(result.folder / "model.pt2", extra_files=extra)
    assert json.loads(extra["classes"]) == ["0", "1", "2"]
    with pytest.raises(UsageError, match=r"only writes \.pt2 files and runs none: torch's reader would execute"):
        load_any(result.folder)


@pytest.mark.parametrize("more", [{"layer_scale": 0.1}, {"tokens": 0}, {"tokens": 0, "fc_norm": True}], ids=str)
def test_weights_that_timm_loads(more, tmp_path):
    """A plain ViT under timm's names with timm's own config: the same logits, without vitrail."""
    timm = pytest.importorskip("timm")
    keys = {"width": 32, "depth": 2, "heads": 2, "patch": 8, "size": (32, 40), **more}
    model = vitrail.create("vit/tiny", classes=3, **keys).eval()
    vitrail.save(model, tmp_path / "model", ("ant", "bee", "cat"))
    result = vitrail.export(tmp_path / "model", format="safetensors")
    config = json.loads((result.folder / "config.json").read_text())
    assert config["label_names"] == ["ant", "bee", "cat"]
    theirs = timm.create_model(f"local-dir:{result.folder}", pretrained=True).eval()
    x = torch.randn(2, 3, 32, 40)
    torch.testing.assert_close(theirs(x), model(x), rtol=1e-4, atol=1e-5)
    assert theirs.pretrained_cfg["mean"] == [0.5, 0.5, 0.5]


def test_timm_merges_no_tokens(tmp_path):
    """What it would build is another model: it has our recipe, and no config of timm's."""
    model = vitrail.create("vit/tiny", classes=3, width=32, depth=2, heads=2, patch=8, size=(32, 40), merge=2)
    vitrail.save(model, tmp_path / "model")
    folder = vitrail.export(tmp_path / "model", format="safetensors").folder
    assert "architecture" not in json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize(("name", "keys", "names"), [
    ("swin/tiny", {"width": 16, "depths": (1, 1, 1, 1), "heads": (1, 2, 4, 8), "size": (64, 64), "window": 4}, "timm"),
    ("vit/nano", {"width": 32, "depth": 1, "heads": 2}, "vitrail"),
])  # fmt: skip
def test_names_of_weights(name, keys, names, tmp_path):
    """timm's where the family has them; a file in them is read back by vitrail itself."""
    from safetensors.torch import load_file

    model = vitrail.create(name, classes=3, **keys)
    vitrail.save(model, tmp_path / "model")
    result = vitrail.export(tmp_path / "model", format="safetensors")
    config = json.loads((result.folder / "config.json").read_text())
    assert config["names"].partition(":")[0] == names
    assert "mean" in config["input"]
    assert "inputs" not in json.loads((result.folder / "model.json").read_text())
    tensors = load_file(result.folder / "model.safetensors")
    assert sum(t.numel() for t in tensors.values()) >= sum(p.numel() for p in model.parameters())
    if names == "timm":
        again = vitrail.create(name, classes=3, **keys)
        vitrail.load_weights(again, result.folder / "model.safetensors")
        assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
